//! Memory lent to others: by `gmem pager serve`, and by the guest of `gmem run --donate`.

pub mod donate;
pub mod listen;
mod relay;
pub mod serve;
