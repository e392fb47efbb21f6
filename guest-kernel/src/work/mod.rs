//! The workloads, as each CPU runs them.

pub mod accelerated;
mod access;
pub mod donor;
mod faults;
mod generator;
pub mod hostile;
mod json;
pub mod result;
mod tagged;
pub mod tally;
mod verify;

use crate::clock::{Frequency, cycles};
use crate::memory::WorkingSet;
use crate::plan::{Plan, Workload};
use core::cell::Cell;
use core::fmt;
use core::ops::Range;
use tally::Tally;

/// What a workload needs of the machine beside memory and the TSC.
pub trait Machine {
    /// Returns when every CPU of the crew is here.
    fn barrier(&self);

    /// Prints a line.
    fn line(&self, text: fmt::Arguments<'_>);

    /// Has nothing to do for so many times 10 microseconds.
    fn nap(&self, tens_us: u8) {
        let _ = tens_us;
        core::hint::spin_loop();
    }

    /// How many virtio devices there are.
    fn devices(&self) -> usize {
        0
    }

    /// Reads 1, 2, 4 or 8 bytes at `offset` of the window of device `device`, all of them within it.
    fn read_device(&self, device: usize, offset: u64, width: u8) -> u64 {
        let _ = (device, offset, width);
        0
    }

    /// Writes the low 1, 2, 4 or 8 bytes of `value` there.
    fn write_device(&self, device: usize, offset: u64, width: u8, value: u64) {
        let _ = (device, offset, width, value);
    }
}

/// One CPU of those that run a workload together.
pub struct Crew<'a, M> {
    machine: &'a M,
    plan: &'a Plan,
    set: &'a WorkingSet,
    frequency: Frequency,
    cpu: usize,
    cpus: usize,
    threshold: u64,
    last_line: Cell<u64>,
}

impl<'a, M: Machine> Crew<'a, M> {
    /// CPU number `cpu` of `cpus`, with the plan and the memory that all of them share.
    pub fn new(
        machine: &'a M,
        plan: &'a Plan,
        set: &'a WorkingSet,
        frequency: Frequency,
        cpu: usize,
        cpus: usize,
    ) -> Self {
        Self {
            machine,
            plan,
            set,
            frequency,
            cpu,
            cpus,
            threshold: frequency.cycles(plan.fault_threshold_us),
            last_line: Cell::new(cycles()),
        }
    }

    /// This CPU's share of the workload. Every CPU of the crew must call it. Workloads for a monitor's error
    /// paths are not run here: for them and `none` it does nothing.
    pub fn run(&self, tally: &mut Tally) {
        match self.plan.workload {
            Workload::Verify { epochs } => verify::run(self, epochs, tally),
            Workload::Faults { passes } => faults::run(self, passes, tally),
            Workload::Hostile { rounds, device } => hostile::run(self, rounds, device, tally),
            Workload::Donor { size } => donor::run(self, size, tally),
            workload if workload.accelerated() => accelerated::run(self, tally),
            _ => {
                if let Some(generator) = generator::Generator::new(self) {
                    access::run(self, generator, tally);
                }
            }
        }
    }

    /// Share number `share` of `0..total`, dealt out among the CPUs.
    fn share(&self, total: u64, share: usize) -> Range<u64> {
        let cut = |at: usize| (u128::from(total) * at as u128 / self.cpus as u128) as u64;
        cut(share)..cut(share + 1)
    }

    /// The pages that this CPU writes.
    fn own_pages(&self) -> Range<u64> {
        self.share(self.set.pages(), self.cpu)
    }

    /// The pages that this CPU checks: another one wrote them, if there is another.
    fn others_pages(&self) -> Range<u64> {
        self.share(self.set.pages(), (self.cpu + 1) % self.cpus)
    }

    /// Waits for all CPUs, runs `phase`, waits again; returns the cycles between.
    fn timed(&self, phase: impl FnOnce()) -> u64 {
        self.machine.barrier();
        let start = cycles();
        phase();
        self.machine.barrier();
        cycles().saturating_sub(start)
    }

    /// Whether a progress line may be printed: on CPU 0, once a second.
    #[inline]
    fn line_due(&self, now: u64) -> bool {
        let second = self.frequency.khz * 1000;
        let due = self.cpu == 0 && now.saturating_sub(self.last_line.get()) >= second;
        if due {
            self.last_line.set(now);
        }
        due
    }

    /// How much was done by all CPUs a second, to judge by what this one did since `start`.
    fn rate(&self, done: u64, start: u64, now: u64) -> f64 {
        let seconds = self.frequency.seconds(now.saturating_sub(start));
        done as f64 * self.cpus as f64 / seconds.max(1e-9)
    }
}

#[cfg(test)]
mod tests;
