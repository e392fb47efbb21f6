//! The least that can serve faults: what the engine is measured against.
//!
//! The arena has one slot for each guest page, at the same offset, and a frame in each slot whose page is
//! not in the guest. So a fault needs no table, no lock and no allocation: read the event, move the one
//! page, note its number in a ring. An evictor in the background moves the oldest pages back to their
//! slots, so that no more than the budget is resident, and copies each to emulated HBM, as the engine's
//! does. Host RAM is not saved by any of this: every frame stays in RAM.
//!
//! The other arrangement leaves bytes in the slot and copies them into a new frame, which interrupts no other CPU: better
//! with several vCPUs. The evictor moves pages to a place of its own, copies them to their slots, and drops the
//! frames together.
//!
//! Everything else is as with the engine: the same registration, a handler on each vCPU's CPU, huge pages
//! kept away, the evictor wherever the scheduler puts it.

mod arrivals;
mod evictor;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{ptr, slice};

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::mmu::{Moved, Obstacle};
use gmem_core::page::PAGE_SIZE;
use vmm_sys_util::signal::Killable;

use arrivals::Arrivals;

use crate::kvm::{affinity, kick};
use crate::memory::arming::{ArmError, step};
use crate::memory::failure::Failure;
use crate::memory::pagemap::Pagemap;
use crate::memory::ram::GuestRam;
use crate::memory::reserve::{Backing, Reservation};
use crate::memory::server::{Server, Serving};
use crate::memory::userfault::{Mode, Reading, Userfault, Waking};

/// How long a page may be on its way out before its fault counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a page comes beneath the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bringing {
    /// Its frame is moved.
    Move,
    /// Its bytes are copied into a new frame.
    Copy,
}

/// Serves one microVM.
pub(super) struct Floor {
    /// How much may be resident, bytes.
    pub(super) budget: u64,
    pub(super) bringing: Bringing,
}

/// What the threads share.
struct Parts {
    ram: Arc<GuestRam>,
    slots: Reservation,
    userfault: Userfault,
    bringing: Bringing,
    /// Pages whose bytes are on their way to their slots.
    leaving: Box<[AtomicBool]>,
    arrivals: Arrivals,
    failure: Arc<Failure>,
    stop: AtomicBool,
}

impl Server for Floor {
    fn serve(
        &self,
        ram: &Arc<GuestRam>,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Box<dyn Serving>, ArmError> {
        let len = ram.end() as usize;
        let space = |len| {
            Reservation::new(len, Backing::Small)
                .map_err(|error| step("arena")(io::Error::other(error)))
        };
        let (slots, out) = (space(len)?, space(evictor::AT_ONCE * PAGE_SIZE)?);
        let userfault = Userfault::open(Reading::Blocking)?;
        let registering = "registering memory with userfaultfd";
        for space in [&slots, &out] {
            userfault
                .register(space.start(), space.len(), Mode::WriteProtect)
                .map_err(step(registering))?;
        }
        for region in ram.regions() {
            let start = ram.base() + region.start as usize;
            userfault
                .register(start, region.size as usize, Mode::MissingAndWriteProtect)
                .map_err(step(registering))?;
        }
        let parts = Arc::new(Parts {
            bringing: self.bringing,
            leaving: (0..len / PAGE_SIZE)
                .map(|_| AtomicBool::new(false))
                .collect(),
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
        serving.start("reclaim", move || {
            evictor::run(&evicting, budget, &hbm, &out)
        })?;
        for cpu in cpus.iter().copied().collect::<BTreeSet<_>>() {
            let parts = Arc::clone(&parts);
            serving.start("fault", move || {
                // Not fatal: slower, but right.
                let _ = affinity::pin(cpu);
                parts.handle_faults();
            })?;
        }
        Ok(Box::new(serving))
    }
}

/// Handlers and evictor.
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
        while !self.stop.load(Ordering::Relaxed) {
            match self.userfault.next_address() {
                Ok(None) => {}
                Ok(Some(address)) => self.bring(address),
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
            let moved = match self.bringing {
                Bringing::Move => {
                    let uffd = &self.userfault;
                    uffd.move_pages(address, slot, PAGE_SIZE, Waking::Now)
                }
                Bringing::Copy => self.copy_in(page, address),
            };
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

    /// Copies a page from its slot, once its bytes have arrived there.
    fn copy_in(&self, page: u64, address: usize) -> Moved {
        while self.leaving[page as usize].load(Ordering::Acquire) {
            thread::yield_now();
        }
        // SAFETY: the slot of a guest page, in bounds; it is written only while its page is resident or leaving.
        let bytes = unsafe { slice::from_raw_parts(self.slot(page) as *const u8, PAGE_SIZE) };
        let copied = self.userfault.copy_pages(address, bytes);
        if copied.stopped.is_none() {
            let _ = self.userfault.wake(address, PAGE_SIZE);
        }
        copied
    }
}
