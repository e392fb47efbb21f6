//! The time stamp counter.

use core::arch::x86_64::{_mm_lfence, _rdtsc};

/// Cycles of the TSC, read after every earlier load has its value (a page fault is over by then).
#[inline]
pub fn cycles() -> u64 {
    // SAFETY: both instructions belong to the baseline of x86-64 and touch no memory.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The TSC's frequency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frequency {
    /// In kHz, not 0.
    pub khz: u64,
    /// Nobody said so: times are a guess.
    pub assumed: bool,
}

impl Frequency {
    /// Microseconds of so many cycles.
    pub fn microseconds(&self, cycles: u64) -> f64 {
        cycles as f64 * 1e3 / self.khz as f64
    }

    /// Seconds of so many cycles.
    pub fn seconds(&self, cycles: u64) -> f64 {
        cycles as f64 / (self.khz as f64 * 1e3)
    }

    /// Cycles of so many microseconds, at most 2^62.
    pub fn cycles(&self, microseconds: u64) -> u64 {
        let cycles = u128::from(microseconds) * u128::from(self.khz) / 1000;
        cycles.min(1 << 62) as u64
    }
}
