//! The pages that are let in while touches are recorded.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;

use super::{Recording, lock};
use crate::memory::arming::{ArmError, step};
use crate::memory::failure::Failure;
use crate::memory::pagemap::Pagemap;
use crate::memory::ram::GuestRam;
use crate::memory::reserve::{Backing, Reservation};
use crate::memory::userfault::{Mode, Reading, Userfault, Waking};

/// How long the kernel may have a page in use before its fault counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a page's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whereabouts {
    /// It reads as zeros.
    Nowhere,
    /// In its slot: at the same offset as in guest memory.
    Slot,
    /// Beneath the guest.
    Present,
}

/// The pages that are let in, and where the others are.
pub(super) struct Window {
    ram: Arc<GuestRam>,
    slots: Reservation,
    userfault: Userfault,
    pages: Vec<Whereabouts>,
    /// In the order in which they came.
    present: VecDeque<u32>,
    size: usize,
    recording: Arc<Mutex<Recording>>,
    failure: Arc<Failure>,
}

impl Window {
    /// Takes over `ram`, of `pages` pages, of which `size` are let in at once. No vCPU runs yet.
    pub(super) fn new(
        ram: &Arc<GuestRam>,
        pages: u64,
        size: u32,
        recording: Arc<Mutex<Recording>>,
        failure: &Arc<Failure>,
    ) -> Result<Self, ArmError> {
        let slots = Reservation::new(pages as usize * PAGE_SIZE, Backing::Small)?;
        let userfault = Userfault::open(Reading::Blocking)?;
        let registering = "registering memory with userfaultfd";
        userfault
            .register(slots.start(), slots.len(), Mode::WriteProtect)
            .map_err(step(registering))?;
        for region in ram.mapped() {
            let start = ram.base() + region.start as usize;
            userfault
                .register(start, region.size as usize, Mode::MissingAndWriteProtect)
                .map_err(step(registering))?;
        }
        let mut window = Self {
            ram: Arc::clone(ram),
            slots,
            userfault,
            pages: vec![Whereabouts::Nowhere; pages as usize],
            present: VecDeque::new(),
            size: size as usize,
            recording,
            failure: Arc::clone(failure),
        };
        window
            .take_over()
            .map_err(step("taking over guest memory"))?;
        Ok(window)
    }

    /// Host address of the guest's page.
    fn page(&self, page: u32) -> usize {
        self.ram.base() + page as usize * PAGE_SIZE
    }

    /// Host address of its slot.
    fn slot(&self, page: u32) -> usize {
        self.slots.start() + page as usize * PAGE_SIZE
    }

    /// Moves all that was loaded out of the guest. No vCPU runs yet.
    fn take_over(&mut self) -> io::Result<()> {
        let pagemap = Pagemap::open()?;
        let ram = Arc::clone(&self.ram);
        for region in ram.mapped() {
            let (start, len) = (ram.base() + region.start as usize, region.size as usize);
            let mut runs = pagemap.scan(start, len)?;
            if runs.iter().any(|run| run.swapped) {
                ram.populate_swapped(region.start, len)?;
                runs = pagemap.scan(start, len)?;
            }
            for run in runs {
                if run.zero {
                    // The kernel's shared zero page cannot be moved.
                    ram.discard((run.start - ram.base()) as u64, run.len)?;
                    continue;
                }
                for address in (run.start..run.start + run.len).step_by(PAGE_SIZE) {
                    let page = ((address - ram.base()) / PAGE_SIZE) as u32;
                    if let Some(obstacle) = self.expel(page) {
                        let text = format!("page {page} cannot be moved out: {obstacle:?}");
                        return Err(io::Error::other(text));
                    }
                }
            }
        }
        Ok(())
    }

    /// Serves faults until `stop` is set and a signal interrupts the wait for the next.
    pub(super) fn handle_faults(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            match self.userfault.next_address() {
                Ok(None) => {}
                Ok(Some(address)) => self.touched(address),
                Err(error) => {
                    self.failure
                        .record(format_args!("userfaultfd cannot be read: {error}"));
                    return;
                }
            }
        }
    }

    fn touched(&mut self, address: usize) {
        let Some(gpa) = self.ram.guest_address(address) else {
            return;
        };
        let page = (gpa / PAGE_SIZE as u64) as u32;
        if self.pages[page as usize] == Whereabouts::Present {
            // Somebody else touched it before.
            let _ = self.userfault.wake(address, PAGE_SIZE);
            return;
        }
        self.record(page);
        self.make_room();
        let since = Instant::now();
        let mut obstacle = self.bring(page);
        while obstacle == Some(Obstacle::Busy) && since.elapsed() < PATIENCE {
            thread::yield_now();
            obstacle = self.bring(page);
        }
        if let Some(obstacle) = obstacle {
            self.failure
                .record(format_args!("page {page} cannot be moved in: {obstacle:?}"));
            // Its bytes are somewhere, but the guest must not see others.
            let _ = self.userfault.poison(address, PAGE_SIZE);
        }
    }

    fn record(&self, page: u32) {
        let mut recording = lock(&self.recording);
        match recording
            .writer
            .as_mut()
            .map(|writer| writer.touch(page.into()))
        {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => recording.unrecorded += 1,
            Some(Err(error)) => {
                recording.writer = None;
                self.failure
                    .record(format_args!("the recording cannot be written: {error}"));
            }
        }
    }

    /// Lets the pages go that came first, until one more may come.
    fn make_room(&mut self) {
        for _ in 0..self.present.len() {
            if self.present.len() < self.size {
                return;
            }
            let Some(page) = self.present.pop_front() else {
                return;
            };
            match self.expel(page) {
                None => {}
                Some(Obstacle::Busy) => {
                    self.present.push_back(page);
                    lock(&self.recording).stayed += 1;
                }
                Some(obstacle) => self.failure.record(format_args!(
                    "page {page} cannot be moved out: {obstacle:?}"
                )),
            }
        }
    }

    /// Moves a page out of the guest.
    fn expel(&mut self, page: u32) -> Option<Obstacle> {
        let (to, from) = (self.slot(page), self.page(page));
        let moved = self
            .userfault
            .move_pages(to, from, PAGE_SIZE, Waking::Later);
        if moved.stopped.is_none() {
            self.pages[page as usize] = Whereabouts::Slot;
        }
        moved.stopped
    }

    /// Brings a page in and wakes who waits for it.
    fn bring(&mut self, page: u32) -> Option<Obstacle> {
        let (to, from) = (self.page(page), self.slot(page));
        let moved = match self.pages[page as usize] {
            Whereabouts::Slot => self.userfault.move_pages(to, from, PAGE_SIZE, Waking::Now),
            Whereabouts::Nowhere | Whereabouts::Present => {
                let copied = self.userfault.copy_pages(to, &[0; PAGE_SIZE]);
                let _ = self.userfault.wake(to, PAGE_SIZE);
                copied
            }
        };
        if moved.stopped.is_none() {
            self.pages[page as usize] = Whereabouts::Present;
            self.present.push_back(page);
        }
        moved.stopped
    }
}
