//! What a state of the model holds.

/// Logical pages.
pub const PAGES: usize = 2;
/// vCPUs, each with a fault handler of its own.
pub const ACCESSORS: usize = 2;
/// Hnodes below the arena.
pub const TIERS: usize = 2;
/// Slots of the arena.
pub const SLOTS: usize = 3;
/// Physical frames that the machine has: more than any budget here.
pub const FRAMES: usize = 3;
/// Frames that each tier has at most.
pub const TIER_FRAMES: usize = 2;
/// Threads of the engine: a handler for each accessor, then the background thread, then a device's that
/// gives pages back.
pub const THREADS: usize = ACCESSORS + 2;
/// The background thread's number.
pub const BACKGROUND: usize = ACCESSORS;
/// The number of the device's thread.
pub const DEVICE: usize = ACCESSORS + 1;

/// What is in a frame that nobody has filled: no value that a page ever has.
pub const GARBAGE: u8 = 0xee;

/// Where an entry says that its page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Nowhere: it reads as zero.
    Untouched,
    /// Beneath the guest.
    Mapped,
    /// In this slot of the arena.
    Staged(usize),
    /// In this frame of this tier.
    Tier(usize, usize),
}

/// A word of the logical page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub place: Place,
    pub locked: bool,
}

/// Who has a slot of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The set of free slots without frames.
    Empty,
    /// The set of free slots with frames.
    Full,
    /// An entry or a thread.
    Taken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub owner: Owner,
    pub frame: Option<usize>,
}

/// An access: which page, and whether it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    pub page: usize,
    pub writes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vcpu {
    Runs,
    /// Asleep; its event is not yet read.
    Faulted(Access),
    /// Asleep; a handler has read its event.
    Waits(Access),
    /// Woken: about to try again.
    Woken(Access),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Accessor {
    pub vcpu: Vcpu,
    /// Accesses that it will still begin.
    pub left: u8,
    /// What its translation cache says of each page.
    pub tlb: [Option<usize>; PAGES],
}

/// A fault, or another attempt at one, that a thread works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bring {
    pub touched: usize,
    /// Pages whose lock the thread holds, as a mask.
    pub held: u8,
}

/// A frame on its way to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incoming {
    pub page: usize,
    pub slot: usize,
    /// Where the page was when its lock was taken.
    pub before: Place,
    /// The frame was created for this.
    pub fresh: bool,
}

/// The step that a thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    Idle,
    /// Wait for the touched page's lock.
    Lock {
        page: usize,
        along: bool,
    },
    /// Look at the entry; lock what comes along.
    Look {
        along: bool,
    },
    /// Choose the next page to bring in and find a frame for it.
    Pick,
    Load(Incoming),
    Map(Incoming),
    Wake(Incoming),
    Commit(Incoming),
    /// Free where the page was; its slot is empty.
    FreeSource(Incoming),
    /// Make room for the touched page.
    Room,
    PutAside {
        page: usize,
    },
    Unmap {
        page: usize,
        slot: usize,
    },
    /// Wait until all accessors acknowledge that the translation is gone.
    Flush {
        page: usize,
        slot: usize,
    },
    CommitStaged {
        page: usize,
        slot: usize,
    },
    Queue {
        page: usize,
    },
    /// Store a staged page, in this tier or one below it.
    Store {
        page: usize,
        slot: usize,
        tier: usize,
    },
    CommitStored {
        page: usize,
        slot: usize,
        to: Place,
    },
    FreeSlot {
        slot: usize,
    },
    DemoteLoad {
        page: usize,
        from: Place,
    },
    DemoteStore {
        page: usize,
        from: Place,
        value: u8,
    },
    DemoteCommit {
        page: usize,
        from: Place,
        to: Place,
    },
    DemoteFree {
        from: Place,
    },
    /// Wait for the lock of a page that is given back.
    GiveLock {
        page: usize,
    },
    GiveUnmap {
        page: usize,
        slot: usize,
    },
    GiveFlush {
        page: usize,
        from: Place,
    },
    GiveCommit {
        page: usize,
        from: Place,
    },
    /// Free where the page was.
    GiveFree {
        from: Place,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Thread {
    pub step: Step,
    pub bring: Option<Bring>,
}

/// What went wrong in a step; what can be seen in a state is in `properties`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// An access saw other bytes than those written last.
    StaleAccess,
    /// A failed migration changed the page's entry or bytes.
    FailureChangedPage,
    /// A page to be mapped was present, or one to be unmapped absent.
    MmuContradictsTable,
    /// A frame was freed that nobody had.
    FreedTwice,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub entries: [Entry; PAGES],
    /// The guest's page table: which frame is beneath each page.
    pub guest: [Option<usize>; PAGES],
    /// What is in each frame that exists.
    pub memory: [Option<u8>; FRAMES],
    pub slots: [Slot; SLOTS],
    pub tiers: [[Option<u8>; TIER_FRAMES]; TIERS],
    /// How many frames may exist.
    pub cap: usize,
    /// As `cap`, or more while what was there when the cap was lowered is evicted.
    pub limit: usize,
    /// Staged pages in the order in which they left; some may have come back.
    pub queue: Vec<usize>,
    /// Pages of faults that were put aside, as a mask.
    pub waiting: u8,
    /// What each page must say: the number of its last write, zero if it was given back since.
    pub written: [u8; PAGES],
    /// How often each page has been written.
    pub writes: [u8; PAGES],
    pub accessors: [Accessor; ACCESSORS],
    pub threads: [Thread; THREADS],
    /// Failures that may still be injected.
    pub failures_left: u8,
    /// Pages that will still be given back.
    pub gives_left: u8,
    /// Changes of the budget that will still be made.
    pub budgets_left: u8,
    /// A failure ended the microVM.
    pub fatal: bool,
    pub wrong: Option<Wrong>,
}

impl State {
    pub fn existing(&self) -> usize {
        self.memory.iter().flatten().count()
    }

    pub fn free_frames(&self) -> usize {
        let full = |slot: &&Slot| slot.owner == Owner::Full;
        self.slots.iter().filter(full).count()
    }

    pub fn available(&self) -> usize {
        self.free_frames() + self.cap.saturating_sub(self.existing())
    }

    pub fn staged(&self) -> usize {
        let staged = |entry: &&Entry| matches!(entry.place, Place::Staged(_));
        self.entries.iter().filter(staged).count()
    }

    /// What a page's bytes are where `place` says, if they are there.
    pub fn bytes_at(&self, page: usize, place: Place) -> Option<u8> {
        match place {
            Place::Untouched => Some(0),
            Place::Mapped => self.guest[page].and_then(|frame| self.memory[frame]),
            Place::Staged(slot) => self.slots[slot].frame.and_then(|frame| self.memory[frame]),
            Place::Tier(tier, frame) => self.tiers[tier][frame],
        }
    }

    /// All accesses have ended. That a failure ended the microVM is no such end.
    pub fn finished(&self) -> bool {
        let done = |accessor: &Accessor| accessor.vcpu == Vcpu::Runs && accessor.left == 0;
        !self.fatal && self.accessors.iter().all(done)
    }
}
