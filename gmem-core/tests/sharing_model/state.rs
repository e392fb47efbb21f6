//! What there is.

/// Pages.
pub const PAGES: usize = 2;
/// Accelerators.
pub const DEVICES: usize = 2;
/// Who works on pages: the vCPU's fault handler, a driver for each accelerator, the background.
pub const TASKS: usize = 2 + DEVICES;
/// The vCPU's handler.
pub const VCPU: usize = 0;
/// The background thread.
pub const BACKGROUND: usize = TASKS - 1;
/// What is in a frame that no page has.
pub const GARBAGE: u8 = 0x7f;

/// The task that serves accelerator `device`.
pub const fn driver(device: usize) -> usize {
    1 + device
}

/// Where a page's bytes are, by its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Nowhere: it reads as zeros.
    Untouched,
    /// Beneath the guest.
    Mapped,
    /// In the arena, out of the guest's reach.
    Staged,
    /// In a tier.
    Tier,
    /// In an accelerator's memory.
    Device(usize),
}

/// What a page table or TLB says of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Nothing.
    None,
    /// It is in the accelerator's own frame.
    Local {
        /// It may be written.
        write: bool,
    },
    /// It is beneath the guest, to be read and written over the link.
    Host,
}

impl Reach {
    /// Whether an access goes through.
    pub const fn allows(self, write: bool) -> bool {
        match self {
            Self::None => false,
            Self::Local { write: may } => may || !write,
            Self::Host => true,
        }
    }
}

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Page {
    /// Its entry's lock.
    pub locked: bool,
    /// What its entry says.
    pub owner: Owner,
    /// The vCPU reaches it.
    pub present: bool,
    /// The vCPU may only read it.
    pub protected: bool,
    /// The frame beneath the guest, in the arena, in the tier.
    pub guest: u8,
    pub staged: u8,
    pub tier: u8,
    /// Accelerators that have a copy.
    pub copies: [bool; DEVICES],
    /// Accelerators that reach it beneath the guest.
    pub remote: [bool; DEVICES],
    /// How often it was written since it was last nothing: what every reader must see.
    pub written: u8,
}

/// An access that is under way, or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    pub page: usize,
    pub write: bool,
}

/// An accelerator: one frame, page tables, one execution unit with its TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// What is in its frame, and which page has it.
    pub frame: u8,
    pub holder: Option<usize>,
    pub table: [Reach; PAGES],
    pub tlb: [Reach; PAGES],
    /// The unit is in the middle of an access, with what it has looked up.
    pub inside: Option<(Access, Reach)>,
    /// It has faulted.
    pub wants: Option<Access>,
    /// Accesses that it will still make.
    pub left: u8,
}

/// A step of somebody who holds a page's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Out of an accelerator's page tables.
    Unmap(usize),
    /// Its unit forgets the page, when it is not in the middle of an access.
    Acknowledge(usize),
    /// The accelerator's frame has no page any more.
    FreeFrame(usize),
    /// The frame is the page's, if it is free, or its copy already.
    TakeFrame(usize),
    /// From beneath the guest into the arena.
    LeaveGuest,
    /// Beneath the guest, from where its bytes are.
    EnterGuest,
    /// The vCPU may only read.
    Protect,
    /// It may write again.
    Unprotect,
    /// The bytes go into an accelerator's frame, from where they are.
    CopyNear(usize),
    /// The bytes go from an accelerator's frame into the arena.
    CopyAway(usize),
    /// The bytes go from the arena into the tier.
    CopyToTier,
    /// Into the page tables; this can fail.
    Map(usize, Reach),
    /// What the entry says from now on.
    Commit(Owner),
    /// A copy is on record, or no longer.
    Copied(usize, bool),
    /// Remote reach is on record, or no longer.
    Remote(usize, bool),
    /// The entry is unlocked, the last step.
    Unlock,
}

/// What somebody wants of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The vCPU touched it.
    Bring { write: bool },
    /// An accelerator gets it exclusively.
    Migrate(usize),
    /// An accelerator gets a copy to read.
    Copy(usize),
    /// An accelerator reaches it beneath the guest.
    Remote(usize),
    /// It leaves the guest.
    Stage,
    /// It leaves the arena for the tier.
    PassOn,
    /// It leaves an accelerator's memory.
    SendAway(usize),
    /// An accelerator's copy goes.
    DropCopy(usize),
    /// The guest gives it back.
    Free,
}

/// Somebody at work on a page, with what is still to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Work {
    pub page: usize,
    pub goal: Goal,
    pub steps: Vec<Step>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub pages: [Page; PAGES],
    pub devices: [Device; DEVICES],
    /// The vCPU has faulted.
    pub wants: Option<Access>,
    /// Accesses that it will still make.
    pub left: u8,
    pub tasks: [Option<Work>; TASKS],
    /// What the background will still do, and what will still fail.
    pub chores: u8,
    pub failures: u8,
    /// What must never be, and was.
    pub wrong: Option<&'static str>,
}

impl State {
    /// Everybody has so much to do.
    pub fn new(vcpu: u8, devices: [u8; DEVICES], chores: u8, failures: u8) -> Self {
        let page = Page {
            locked: false,
            owner: Owner::Untouched,
            present: false,
            protected: false,
            guest: GARBAGE,
            staged: GARBAGE,
            tier: GARBAGE,
            copies: [false; DEVICES],
            remote: [false; DEVICES],
            written: 0,
        };
        let device = |left| Device {
            frame: GARBAGE,
            holder: None,
            table: [Reach::None; PAGES],
            tlb: [Reach::None; PAGES],
            inside: None,
            wants: None,
            left,
        };
        Self {
            pages: [page; PAGES],
            devices: devices.map(device),
            wants: None,
            left: vcpu,
            tasks: Default::default(),
            chores,
            failures,
            wrong: None,
        }
    }

    /// Nobody has anything to do any more.
    pub fn finished(&self) -> bool {
        self.left == 0
            && self.wants.is_none()
            && self.tasks.iter().all(Option::is_none)
            && self
                .devices
                .iter()
                .all(|device| device.left == 0 && device.inside.is_none() && device.wants.is_none())
    }

    /// The bytes of a page, where its entry says that they are.
    pub fn bytes(&self, page: usize) -> u8 {
        let of = &self.pages[page];
        match of.owner {
            Owner::Untouched => 0,
            Owner::Mapped => of.guest,
            Owner::Staged => of.staged,
            Owner::Tier => of.tier,
            Owner::Device(device) => self.devices[device].frame,
        }
    }

    /// Something that must never be.
    pub fn must(&mut self, holds: bool, what: &'static str) {
        if !holds {
            self.wrong.get_or_insert(what);
        }
    }
}
