//! The least that can serve faults by moving frames: what the engine is measured against.
//!
//! The arena has one slot for each guest page, at the same offset, and a frame in each slot whose page is
//! not in the guest. So a fault needs no table, no lock and no allocation: read the event, move the one
//! page, note its number in a ring. An evictor in the background moves the oldest pages back to their
//! slots, so that no more than the budget is resident, and copies each to emulated HBM, as the engine's
//! does. Host RAM is not saved by any of this: every frame stays in RAM.
//!
//! Everything else is as with the engine: the same registration, the handler on its vCPU's CPU, huge pages
//! kept away, the evictor wherever the scheduler puts it.

mod evictor;

use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use vmm_sys_util::signal::Killable;

use crate::kvm::{affinity, kick};
use crate::memory::arming::{ArmError, step};
use crate::memory::failure::Failure;
use crate::memory::pagemap::Pagemap;
use crate::memory::ram::GuestRam;
use crate::memory::reserve::{Backing, Reservation};
use crate::memory::server::{Server, Serving};
use crate::memory::userfault::{Event, Mode, Reading, Userfault, Waking};

/// How long a page may be on its way out before its fault counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves one microVM with one vCPU.
pub(super) struct Floor {
    /// How much may be resident, bytes.
    pub(super) budget: u64,
}

/// What the threads share.
struct Parts {
    ram: Arc<GuestRam>,
    slots: Reservation,
    userfault: Userfault,
    arrivals: Arrivals,
    failure: Arc<Failure>,
    stop: AtomicBool,
}

/// Pages that came in, in order. One thread writes, one reads; at most as many pages as the guest has are
/// in it, because each is resident.
struct Arrivals {
    ring: Box<[AtomicU32]>,
    /// How many came in, ever.
    count: AtomicU64,
}

impl Arrivals {
    fn new(pages: u64) -> Self {
        let len = pages.next_power_of_two();
        Self {
            ring: (0..len).map(|_| AtomicU32::new(0)).collect(),
            count: AtomicU64::new(0),
        }
    }

    fn push(&self, page: u64) {
        let count = self.count.load(Ordering::Relaxed);
        self.slot(count).store(page as u32, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Release);
    }

    /// How many came in, ever.
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The one that came in after `before` others; it must be below the count.
    fn get(&self, before: u64) -> u64 {
        self.slot(before).load(Ordering::Relaxed).into()
    }

    fn slot(&self, number: u64) -> &AtomicU32 {
        &self.ring[number as usize & (self.ring.len() - 1)]
    }
}

impl Server for Floor {
    fn serve(
        &self,
        ram: &Arc<GuestRam>,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Box<dyn Serving>, ArmError> {
        let &[cpu] = cpus else {
            return Err(step("one vCPU")(io::ErrorKind::InvalidInput.into()));
        };
        let len = ram.end() as usize;
        let slots = Reservation::new(len, Backing::Small)
            .map_err(|error| step("arena")(io::Error::other(error)))?;
        let userfault = Userfault::open(Reading::Blocking)?;
        let registering = "registering memory with userfaultfd";
        userfault
            .register(slots.start(), len, Mode::WriteProtect)
            .map_err(step(registering))?;
        for region in ram.regions() {
            let start = ram.base() + region.start as usize;
            userfault
                .register(start, region.size as usize, Mode::MissingAndWriteProtect)
                .map_err(step(registering))?;
        }
        let parts = Arc::new(Parts {
            arrivals: Arrivals::new(len as u64 / PAGE_SIZE as u64),
            ram: Arc::clone(ram),
            slots,
            userfault,
            failure: Arc::clone(failure),
            stop: AtomicBool::new(false),
        });
        parts.take_over().map_err(step("page map"))?;
        let hbm = Hbm::new("hbm", ram.end(), Link::new(0.0, 0.0)).map_err(step("emulated HBM"))?;
        let threads = "starting threads";
        kick::install_handler().map_err(step(threads))?;
        let mut serving = Threads {
            parts: Arc::clone(&parts),
            threads: Vec::new(),
        };
        let evicting = Arc::clone(&parts);
        let budget = self.budget / PAGE_SIZE as u64;
        serving.start("reclaim", move || evictor::run(&evicting, budget, &hbm))?;
        serving.start("fault", move || {
            // Not fatal: slower, but right.
            let _ = affinity::pin(cpu);
            parts.handle_faults();
        })?;
        Ok(Box::new(serving))
    }
}

/// The handler and the evictor.
struct Threads {
    parts: Arc<Parts>,
    threads: Vec<JoinHandle<()>>,
}

impl Serving for Threads {}

impl Threads {
    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ArmError> {
        let thread = thread::Builder::new().name(name.into()).spawn(body);
        self.threads.push(thread.map_err(step("starting threads"))?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.parts.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A reader may be about to block when the signal comes, so one is not enough.
            while !thread.is_finished() {
                let _ = thread.kill(kick::kick_signal());
                thread::sleep(Duration::from_micros(200));
            }
            let _ = thread.join();
        }
    }
}

impl Parts {
    /// Host address of the guest's page.
    fn page(&self, page: u64) -> usize {
        self.ram.base() + page as usize * PAGE_SIZE
    }

    /// Host address of its slot.
    fn slot(&self, page: u64) -> usize {
        self.slots.start() + page as usize * PAGE_SIZE
    }

    /// Notes the pages that are in the guest, and puts a frame into the slot of every other one.
    fn take_over(&self) -> io::Result<()> {
        let pagemap = Pagemap::open()?;
        for region in self.ram.regions() {
            let start = self.ram.base() + region.start as usize;
            let mut next = start;
            for run in pagemap.scan(start, region.size as usize)? {
                if run.zero {
                    // The shared zero page is no frame that could be moved back and forth.
                    self.ram
                        .discard((run.start - self.ram.base()) as u64, run.len)?;
                    continue;
                }
                self.fill_slots(next, run.start);
                for address in (run.start..run.start + run.len).step_by(PAGE_SIZE) {
                    self.arrivals.push(self.number(address));
                }
                next = run.start + run.len;
            }
            self.fill_slots(next, start + region.size as usize);
        }
        Ok(())
    }

    fn fill_slots(&self, from: usize, to: usize) {
        for address in (from..to).step_by(PAGE_SIZE) {
            let slot = self.slot(self.number(address)) as *mut u8;
            // SAFETY: the slot of a guest page lies in the arena, which nobody else reaches yet. A write,
            // because a read would only map the shared zero page.
            unsafe { ptr::write_bytes(slot, 0, PAGE_SIZE) };
        }
    }

    /// Number of the guest's page at host address `address`.
    fn number(&self, address: usize) -> u64 {
        ((address - self.ram.base()) / PAGE_SIZE) as u64
    }

    fn handle_faults(&self) {
        let mut events = [Event::default()];
        while !self.stop.load(Ordering::Relaxed) {
            match self.userfault.read_events(&mut events) {
                Ok(_) => self.bring(events[0].address),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) => {}
                Err(error) => {
                    self.failure
                        .record(format_args!("userfaultfd cannot be read: {error}"));
                    return;
                }
            }
        }
    }

    fn bring(&self, address: usize) {
        let page = self.number(address);
        let slot = self.slot(page);
        let mut since = None;
        loop {
            let moved = self
                .userfault
                .move_pages(address, slot, PAGE_SIZE, Waking::Now);
            match moved.stopped {
                None => return self.arrivals.push(page),
                Some(Obstacle::Present) => {
                    let _ = self.userfault.wake(address, PAGE_SIZE);
                    return;
                }
                // It is on its way to the slot.
                Some(Obstacle::Absent | Obstacle::Busy)
                    if since.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
                {
                    thread::yield_now();
                }
                Some(obstacle) => {
                    self.failure
                        .record(format_args!("page {page} cannot be moved in: {obstacle:?}"));
                    // Its bytes are somewhere, but the guest must not see others.
                    let _ = self.userfault.poison(address, PAGE_SIZE);
                    return;
                }
            }
        }
    }
}
