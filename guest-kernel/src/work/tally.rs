//! What a CPU counts while it works.

use crate::math::histogram::Histogram;
use crate::pattern::Mismatch;
use crate::work::accelerated::account::Account;
use crate::work::donor::Lending;
use crate::work::hostile::score::Score;

/// Counters of one CPU, or of all of them together.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Operations of the timed phase.
    pub ops: u64,
    /// Counters incremented since the pages were initialised.
    pub writes: u64,
    /// The sum of those counters, as found in the end.
    pub counted: u64,
    /// Bytes compared with what must be there.
    pub compared: u64,
    /// Bytes of these that were wrong.
    pub mismatched: u64,
    /// The first wrong word.
    pub first: Option<Mismatch>,
    /// Cycles of the accesses that took longer than the threshold.
    pub faults: Histogram,
    /// Cycles of initialisation and warm-up.
    pub warmup_cycles: u64,
    /// Cycles of the timed phase.
    pub timed_cycles: u64,
    /// Of the workload `hostile`.
    pub hostile: Score,
    /// Of the workloads that need an accelerator.
    pub accel: Account,
    /// Of the workload `donor`.
    pub lending: Lending,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing counted.
    pub const fn new() -> Self {
        Self {
            ops: 0,
            writes: 0,
            counted: 0,
            compared: 0,
            mismatched: 0,
            first: None,
            faults: Histogram::new(),
            warmup_cycles: 0,
            timed_cycles: 0,
            hostile: Score::new(),
            accel: Account::new(),
            lending: Lending::new(),
        }
    }

    /// Counts a wrong word; its bytes are counted as compared elsewhere.
    #[cold]
    pub fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatched += mismatch.bytes();
        self.first.get_or_insert(mismatch);
    }

    /// Counts an access that took `cycles` if that is more than `threshold`.
    #[inline]
    pub fn access(&mut self, cycles: u64, threshold: u64) {
        if cycles > threshold {
            self.faults.record(cycles);
        }
    }

    /// Adds another CPU's counters. The CPUs' phases are simultaneous: the longest counts.
    pub fn merge(&mut self, other: &Self) {
        self.ops += other.ops;
        self.writes += other.writes;
        self.counted = self.counted.wrapping_add(other.counted);
        self.compared += other.compared;
        self.mismatched += other.mismatched;
        self.first = self.first.or(other.first);
        self.faults.merge(&other.faults);
        self.warmup_cycles = self.warmup_cycles.max(other.warmup_cycles);
        self.timed_cycles = self.timed_cycles.max(other.timed_cycles);
        self.hostile.merge(&other.hostile);
        self.accel.merge(&other.accel);
        self.lending.merge(&other.lending);
    }

    /// Whether all that was found is what was written, and no device failed. Call it on the counters of all CPUs together.
    pub fn intact(&self) -> bool {
        let failures = self.hostile.failures + self.accel.failures;
        self.mismatched == 0 && self.counted == self.writes && failures == 0
    }
}
