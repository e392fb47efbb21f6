//! What a CPU does that waits: it looks again and again for a while, then it naps, the longer the longer nothing comes. Others
//! may need the host's CPU for what it waits for.

use crate::clock::cycles;
use crate::work::{Crew, Machine};
use core::hint::spin_loop;

/// How long it looks without a pause, microseconds.
const AWAKE_US: u64 = 20;
/// From then on, naps: so many microseconds without anything, so many tens of them asleep at a time.
const NAPS: [(u64, u8); 3] = [(50_000, 100), (2_000, 10), (0, 1)];

/// Waiting.
pub(super) struct Rest<'a, M> {
    machine: &'a M,
    awake: u64,
    naps: [(u64, u8); 3],
    /// Cycles: since when nothing has come.
    since: Option<u64>,
}

impl<'a, M: Machine> Rest<'a, M> {
    pub(super) fn new(crew: &Crew<'a, M>) -> Self {
        let frequency = crew.frequency;
        Self {
            machine: crew.machine,
            awake: frequency.cycles(AWAKE_US),
            naps: NAPS.map(|(from, length)| (frequency.cycles(from), length)),
            since: None,
        }
    }

    /// Something has come.
    pub(super) fn over(&mut self) {
        self.since = None;
    }

    /// Nothing has come.
    pub(super) fn take(&mut self) {
        let now = cycles();
        let waited = now.saturating_sub(*self.since.get_or_insert(now));
        if waited < self.awake {
            return spin_loop();
        }
        let nap = self.naps.iter().find(|(from, _)| waited >= *from);
        self.machine.nap(nap.map_or(1, |(_, length)| *length));
    }
}
