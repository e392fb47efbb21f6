//! The binary `gmem`.
fn main() {}
