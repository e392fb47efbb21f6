//! What attacks count.

/// Something that should not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Kind of the device.
    pub device: &'static str,
    /// What was wrong.
    pub what: &'static str,
    /// In which round of which CPU.
    pub round: u64,
    /// See `round`.
    pub cpu: u64,
}

/// Counters of the workload `hostile`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Devices that were attacked.
    pub devices: u64,
    /// Rounds of attacks.
    pub rounds: u64,
    /// Requests and notifications that should not be, and register accesses of the blind rounds.
    pub attacks: u64,
    /// How often a device was found to ask for a reset.
    pub broken: u64,
    /// How often an attacked device was reset and then worked.
    pub recoveries: u64,
    /// Requests that other devices served during attacks.
    pub beside: u64,
    /// Cycles of the slowest of these.
    pub beside_cycles: u64,
    /// Packets that came from the host, or were answered by it.
    pub packets: u64,
    /// How much went wrong.
    pub failures: u64,
    /// The first of it.
    pub first: Option<Failure>,
}

impl Score {
    /// Nothing counted.
    pub const fn new() -> Self {
        Self {
            devices: 0,
            rounds: 0,
            attacks: 0,
            broken: 0,
            recoveries: 0,
            beside: 0,
            beside_cycles: 0,
            packets: 0,
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
        self.devices += other.devices;
        self.rounds += other.rounds;
        self.attacks += other.attacks;
        self.broken += other.broken;
        self.recoveries += other.recoveries;
        self.beside += other.beside;
        self.beside_cycles = self.beside_cycles.max(other.beside_cycles);
        self.packets += other.packets;
        self.failures += other.failures;
        self.first = self.first.or(other.first);
    }
}
