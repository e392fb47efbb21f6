//! Guests whose pages are somebody else's memory: over a Unix socket, over TCP with TLS, in a Redis cluster, in the memory of another guest; and what happens
//! when those who hold them fail.
//!
//! `GMEM_KILLS=100 cargo test --release --test pager killed` kills as often as that; without it, 6 times.

mod crowd;
mod donor;
mod failing;
mod serving;
#[path = "../support/mod.rs"]
mod shared;
mod support;

use shared::gmem;
