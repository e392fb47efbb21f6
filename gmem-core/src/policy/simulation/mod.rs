//! Replacement, simulated: exact misses of a trace of pages, for the policies of the literature, for the optimum,
//! and for our own.
//!
//! Pages are numbers below the trace's footprint. Memory is empty at first, so that first touches count as misses.
//! Traces are made ([`traces`]), or were recorded from guests ([`recorded`]). [`Managed`] runs any
//! [`Eviction`](super::Eviction), as the engine would, on a real page table.

mod arc;
mod belady;
mod clock;
mod lists;
mod lru;
mod managed;
mod random;
pub mod recorded;
mod s3fifo;
mod sieve;
pub mod traces;

pub use arc::Arc;
pub use belady::belady;
pub use clock::Clock;
pub use lru::Lru;
pub use managed::{Managed, Seen};
pub use random::Random;
pub use s3fifo::S3Fifo;
pub use sieve::Sieve;

/// A policy that decides what memory of a fixed number of pages holds.
pub trait Replacement {
    /// Touches `page`, bringing it in if it is not there; whether it was there.
    fn touch(&mut self, page: u32) -> bool;
}

/// How many touches of `trace` miss.
pub fn misses(policy: &mut dyn Replacement, trace: &[u32]) -> u64 {
    let missed = |page: &&u32| !policy.touch(**page);
    trace.iter().filter(missed).count() as u64
}

/// Which of the touches of a short trace hit, as a string of `h` and `m`.
#[cfg(test)]
fn course(policy: &mut dyn Replacement, trace: &[u32]) -> String {
    let letter = |page: &u32| if policy.touch(*page) { 'h' } else { 'm' };
    trace.iter().map(letter).collect()
}
