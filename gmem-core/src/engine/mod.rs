//! The engine: one verb, migrate.
//!
//! A fault, a prefetch, an eviction, a demotion are all a migration of a page or block from where it is
//! to where it is wanted, in the same steps: lock the entry; take it out of the accessor's reach; bring
//! the bytes to the new frame; give it to the accessor; commit the entry; let the old frame go. A failure
//! before the commit leaves the page where it was, with its bytes: guards, frames and slots give back
//! what they hold when they are dropped.
//!
//! | file | moves |
//! |---|---|
//! | `bring`, `along`, `ahead` | pages beneath the guest, from wherever they are: touched, and foreseen |
//! | `entering` | a few of them by copying, where that is cheaper |
//! | `block` | blocks of 2 MiB, in and out |
//! | `expel`, `together` | pages out of the guest's reach into the arena: *staged*. One by one, or many that lie apart |
//! | `pass_on` | staged pages into the first tier that has room |
//! | `demote` | pages of a tier that fills into those below it |
//! | `beneath` | nothing by itself: the way in and out beneath the guest, with accelerators told first |
//! | `device` | pages into an accelerator's own memory or within its reach, and out of it |
//! | `free` | pages that the guest gives back, nowhere |
//! | `reclaim` | decides when, by watermarks |
//! | `duty` | decides who, by what it costs |
//! | `promote`, `recycle` | nothing: makes one frame of 2 MiB of small ones that stay beneath the guest |
//! | `observe` | nothing: notes which mapped pages are used, where somebody can tell |
//!
//! # Invariants
//!
//! - A page has one owner: its bytes are beneath the guest, or in the one frame that its entry names, or
//!   nowhere (it reads as zeros). [`Engine::audit`] checks this.
//! - Frames of host RAM exist within the budget, except while [`Engine::release_waiters`] ends the microVM.
//! - Nobody waits for an entry's lock while holding another. A fault waits for its own page only.

mod ahead;
mod along;
mod audit;
mod beneath;
mod block;
mod bring;
mod demote;
mod device;
mod duty;
mod entering;
mod evacuate;
mod expel;
mod fault;
mod foresight;
mod free;
mod gate;
mod migrate;
mod observe;
mod pass_on;
mod promote;
mod reclaim;
mod recycle;
mod sizes;
mod snapshot;
mod together;
mod turning;
mod waiting;
mod whereabouts;

pub use audit::Audit;
pub use device::{AttachError, Cause, DeviceError, Traffic};
pub use fault::{FaultError, Faults, Outcome};
pub use free::{FreeError, Freed};
pub use gate::Quiesced;
pub use migrate::{Destination, MigrateError, Migrated};
pub use sizes::{least_budget_pages, reserve_pages};
pub use snapshot::{Snapshot, TierSnapshot};
pub use waiting::Stalls;

use self::foresight::Foresight;
use crate::bytes::Bytes;
use crate::hnode::ram::{Arena, ScratchPool};
use crate::hnode::{Hnode, Owner};
use crate::mmu::Mmu;
use crate::page::{BLOCK_PAGES, PageNo, PageRange, Unit};
use crate::policy::{Clock, Eviction, Prefetch, Prefetching};
use crate::stats::{Site, Stats};
use crate::table::{Entry, Flags, Guard, LogicalPageTable, State};
use std::sync::{Arc, Mutex};

/// What an engine is made of.
pub struct Config {
    /// The guest's RAM, as ranges of guest frames, what may be plugged in later included.
    pub ram: Vec<PageRange>,
    /// How many pages of it the guest does not use yet: capacity need not suffice for them
    /// ([`Engine::set_unplugged`]).
    pub unplugged: u64,
    /// The unit in which a touched page comes in.
    pub unit: Unit,
    /// The arena, with the host budget.
    pub arena: Arena,
    /// Where pages go that do not fit the budget, nearest first. At most 15.
    pub tiers: Vec<Box<dyn Hnode>>,
    /// Lets the guest's RAM be larger than what host and tiers certainly hold.
    pub overcommit: bool,
    /// What comes along with a touched page.
    pub prefetch: Prefetching,
}

/// Why an engine cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Memory is larger than its tiers.
    #[error(
        "guest memory of {memory} is larger than the {capacity} that its tiers certainly hold \
         (host {host} less a reserve of {reserve} for turning, other tiers {tiers}); make a tier larger or \
         memory smaller, or give overcommit=allow"
    )]
    Capacity {
        /// Guest memory.
        memory: Bytes,
        /// What all tiers certainly hold.
        capacity: Bytes,
        /// The host budget.
        host: Bytes,
        /// Part of the host budget that is kept for exchanging pages between full tiers.
        reserve: Bytes,
        /// What the tiers below the host certainly hold.
        tiers: Bytes,
    },
    /// The host budget is too small to turn pages over.
    #[error("a host budget of {found} is too small; give at least {least}")]
    Budget {
        /// The budget.
        found: Bytes,
        /// The least.
        least: Bytes,
    },
    /// Ranges that cannot be a guest's RAM.
    #[error("guest memory of {pages} pages from {start} {problem}")]
    Ram {
        /// First page of the range.
        start: PageNo,
        /// Its length.
        pages: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More tiers than an entry can name.
    #[error("{0} tiers are too many: at most 15")]
    Tiers(usize),
}

/// Moves the pages of one address space.
///
/// Shared by fault handlers ([`Engine::faults`], one for each thread), one background thread
/// ([`Engine::run_background`]), threads that bring pages ahead ([`Engine::run_ahead`]), and whoever controls the microVM.
pub struct Engine {
    table: LogicalPageTable,
    ram: Vec<PageRange>,
    /// Pages of `ram` that the guest may not use now. Locked while sizes are checked and changed.
    unplugged: Mutex<u64>,
    unit: Unit,
    arena: Arena,
    tiers: Vec<Box<dyn Hnode>>,
    devices: device::Devices,
    beneath: beneath::Beneath,
    sharing: device::Sharing,
    /// For bytes on their way.
    scratch: ScratchPool,
    eviction: Box<dyn Eviction>,
    accessors: foresight::Accessors,
    ahead: ahead::Ahead,
    staged: expel::Staged,
    waiting: waiting::Waiting,
    turning: turning::Turning,
    gate: gate::Gate,
    reclaim: reclaim::Reclaim,
    duty: duty::Duty,
    entering: entering::Entering,
    together: together::Together,
    promotion: promote::Promotion,
    demotion: demote::Demotion,
    stats: Stats,
    overcommit: bool,
    /// Some tier's pages are somebody else's memory.
    far: bool,
    evacuation: evacuate::Evacuation,
}

impl Engine {
    /// An engine for an address space of which nothing is present yet ([`Engine::adopt`] tells it what
    /// is).
    pub fn new(config: Config, mmu: Arc<dyn Mmu>) -> Result<Self, ConfigError> {
        let Config {
            ram,
            unplugged,
            unit,
            arena,
            tiers,
            overcommit,
            prefetch,
        } = config;
        if tiers.len() > 15 {
            return Err(ConfigError::Tiers(tiers.len()));
        }
        sizes::check_ram(&ram, unit)?;
        let end = ram.iter().map(|range| range.end().0).max().unwrap_or(0);
        let table = LogicalPageTable::new(PageNo(end));
        let engine = Self {
            far: tiers
                .iter()
                .any(|tier| tier.capabilities().owner == Owner::Peer),
            evacuation: evacuate::Evacuation::default(),
            promotion: promote::Promotion::new(table.blocks()),
            table,
            ram,
            unplugged: Mutex::new(unplugged),
            unit,
            eviction: Box::new(Clock::default()),
            accessors: foresight::Accessors::new(prefetch),
            ahead: ahead::Ahead::default(),
            staged: expel::Staged::default(),
            waiting: waiting::Waiting::default(),
            turning: turning::Turning::default(),
            gate: gate::Gate::default(),
            reclaim: reclaim::Reclaim::default(),
            duty: duty::Duty::default(),
            entering: entering::Entering::default(),
            together: together::Together::default(),
            demotion: demote::Demotion::new(tiers.len()),
            stats: Stats::default(),
            arena,
            tiers,
            devices: device::Devices::default(),
            beneath: beneath::Beneath::new(mmu),
            sharing: device::Sharing::default(),
            scratch: ScratchPool::default(),
            overcommit,
        };
        engine.check_sizes(engine.arena.cap(), unplugged)?;
        Ok(engine)
    }

    /// The unit in which a touched page comes in.
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The arena's address range, to be registered with the guest's userfaultfd.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Whether `page` is guest RAM.
    pub fn is_ram(&self, page: PageNo) -> bool {
        self.ram.iter().any(|range| range.contains(page))
    }

    /// A fault handler, for one thread. Handlers share what they know of each accessor.
    pub fn faults(&self) -> Faults<'_> {
        Faults::new(self, Foresight::of(&self.accessors))
    }

    /// A fault handler with a prefetcher of the caller's.
    pub fn faults_with(&self, prefetch: Box<dyn Prefetch>) -> Faults<'_> {
        Faults::new(self, Foresight::One(prefetch))
    }

    /// Takes over pages that are present beneath the guest. `whole_blocks` are block-aligned ranges of
    /// 2 MiB frames.
    ///
    /// Call it before any fault is handled, while no vCPU runs. More than the budget may be adopted; the
    /// background thread then evicts the excess.
    pub fn adopt(&self, present: &[PageRange], whole_blocks: &[PageRange]) {
        let mapped = Entry::new(State::Mapped, Flags::DIRTY);
        for range in whole_blocks {
            for first in (range.start.0..range.end().0).step_by(BLOCK_PAGES) {
                if let Guard::Block(block) = self.table.lock(PageNo(first)) {
                    block.commit(mapped);
                    self.arena.adopt(BLOCK_PAGES as u64);
                }
            }
        }
        for page in present.iter().flat_map(PageRange::iter) {
            if let Guard::Block(block) = self.table.lock(page) {
                block.split();
            }
            if let Guard::Pages(mut pages) = self.table.lock(page) {
                let index = crate::page::ClusterNo::index(page);
                if pages.entry(index).state() == State::Untouched {
                    pages.commit(index, mapped);
                    self.arena.adopt(1);
                }
            }
        }
        self.wake_background();
    }

    /// Where an entry in this state is counted.
    fn site(state: State) -> Site {
        match state {
            State::Held(place) if place.hnode == crate::table::Place::RAM => Site::Staged,
            State::Held(place) => Site::Tier(place.hnode),
            State::Mapped => Site::Host,
            _ => Site::Zero,
        }
    }
}
