//! What is counted of accelerators.

use crate::math::histogram::Histogram;

/// A device that did not keep to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its kind.
    pub device: &'static str,
    /// Its number among those of its kind.
    pub number: usize,
    /// What was wrong.
    pub what: &'static str,
    /// The CPU that drove it.
    pub cpu: usize,
}

/// Counters of the workloads that need an accelerator.
#[derive(Clone, Debug)]
pub struct Account {
    /// Accelerators that this CPU drives.
    pub accelerators: u64,
    /// Commands that they answered.
    pub commands: u64,
    /// Cycles in which this CPU did nothing but wait for them.
    pub waited_cycles: u64,
    /// Cycles of the commands of the timed phase, from sending to seeing the answer; hints are not among them.
    pub latencies: Histogram,
    /// Cycles of half of the commands that do nothing, measured alone.
    pub nop_cycles: u64,
    /// The same of commands that touch one page which a CPU has just written.
    pub fault_cycles: u64,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Cycles of the timed phase that belong to the first epoch, of more than one.
    pub first_epoch_cycles: u64,
    /// Rows of the table, layers or sequences.
    pub parts: u64,
    /// Bytes of the working set in accelerators' memory in the end, if somebody could say.
    pub local_bytes: Option<u64>,
    /// Devices that did not keep to the rules.
    pub failures: u64,
    /// The first of them.
    pub first: Option<Failure>,
}

impl Account {
    /// Nothing counted.
    pub const fn new() -> Self {
        Self {
            accelerators: 0,
            commands: 0,
            waited_cycles: 0,
            latencies: Histogram::new(),
            nop_cycles: 0,
            fault_cycles: 0,
            weight_bytes: 0,
            first_epoch_cycles: 0,
            parts: 0,
            local_bytes: None,
            failures: 0,
            first: None,
        }
    }

    /// Counts a failure.
    #[cold]
    pub fn fail(&mut self, failure: Failure) {
        self.failures += 1;
        self.first.get_or_insert(failure);
    }

    /// Adds another CPU's counters.
    pub fn merge(&mut self, other: &Self) {
        self.accelerators += other.accelerators;
        self.commands += other.commands;
        self.waited_cycles += other.waited_cycles;
        self.latencies.merge(&other.latencies);
        self.nop_cycles = self.nop_cycles.max(other.nop_cycles);
        self.fault_cycles = self.fault_cycles.max(other.fault_cycles);
        self.weight_bytes = self.weight_bytes.max(other.weight_bytes);
        self.first_epoch_cycles = self.first_epoch_cycles.max(other.first_epoch_cycles);
        self.parts = self.parts.max(other.parts);
        self.local_bytes = self.local_bytes.or(other.local_bytes);
        self.failures += other.failures;
        self.first = self.first.or(other.first);
    }
}

impl Default for Account {
    fn default() -> Self {
        Self::new()
    }
}
