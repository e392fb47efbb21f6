//! The binary `gmem`.

use std::time::Instant;

fn main() {
    // First of all: the report's times begin here.
    let started = Instant::now();
    std::process::exit(gmem_vmm::cli::main(started).into());
}
