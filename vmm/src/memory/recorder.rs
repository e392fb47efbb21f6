//! Which pages a guest touches, in order, as a trace for the simulation of policies.
//!
//! In place of the engine, a guest's memory is served through a window: a few pages are let in, first in, first out, and
//! each fault is a touch in the trace. So whatever is touched is among the last pages of the trace, as many as the
//! window has; what is touched again while it is in the window is not seen. [docs/policy.md](../../../docs/policy.md) says
//! what that means for policies.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use gmem_core::policy::simulation::recorded::Writer;
use vmm_sys_util::signal::Killable;

use super::arming::{ArmError, step};
use super::failure::Failure;
use super::pagemap::Pagemap;
use super::ram::GuestRam;
use super::reserve::{Backing, Reservation};
use super::server::{Server, Serving};
use super::userfault::{Event, Mode, Reading, Userfault, Waking};
use crate::kvm::{affinity, kick};

/// For each vCPU: pages that an instruction may need at once, with those that translate its addresses, and some to spare. With
/// fewer, a vCPU could lose the first of them before the last has come.
pub const LEAST_WINDOW: u32 = 32;
/// How long the kernel may have a page in use before its fault counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves one microVM's memory and records its touches.
pub struct Recorder {
    path: PathBuf,
    window: u32,
    recording: Arc<Mutex<Recording>>,
}

/// What the recorder has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Touches in the file.
    pub touches: u64,
    /// Touches after them, of which the file has no more room.
    pub unrecorded: u64,
    /// How often a page stayed although it was its turn to leave, because the kernel had it in use.
    pub stayed: u64,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorded {} touches", self.touches)?;
        if self.unrecorded > 0 {
            write!(f, ", and no more: {} came after them", self.unrecorded)?;
        }
        if self.stayed > 0 {
            write!(
                f,
                "; {} times a page in use by the kernel stayed longer",
                self.stayed
            )?;
        }
        Ok(())
    }
}

/// No recording could be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "recording {path} cannot be written: {source}; give --record a file in a writable directory"
)]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

struct Recording {
    /// Until the guest runs.
    file: Option<File>,
    writer: Option<Writer<BufWriter<File>>>,
    unrecorded: u64,
    stayed: u64,
}

impl Recorder {
    /// Makes the file at `path`, for a window of `window` pages, or of [`LEAST_WINDOW`] for each vCPU if that is more.
    ///
    /// # Errors
    /// If the file cannot be made, or is one in which nobody can go back.
    pub fn create(path: &Path, window: u32) -> Result<Self, RecordError> {
        let file = File::create(path).and_then(|mut file| {
            file.stream_position()?;
            Ok(file)
        });
        let file = file.map_err(|source| RecordError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            window,
            recording: Arc::new(Mutex::new(Recording {
                file: Some(file),
                writer: None,
                unrecorded: 0,
                stayed: 0,
            })),
        })
    }

    /// Ends the recording of a guest that has ended; `None` if it has never begun, or was ended before.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self) -> Result<Option<Recorded>, RecordError> {
        let mut recording = lock(&self.recording);
        let Some(writer) = recording.writer.take() else {
            return Ok(None);
        };
        let touches = writer.finish().map_err(|source| RecordError {
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(Recorded {
            touches,
            unrecorded: recording.unrecorded,
            stayed: recording.stayed,
        }))
    }
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server for Recorder {
    fn serve(
        &self,
        ram: &Arc<GuestRam>,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Box<dyn Serving>, ArmError> {
        let end = ram.mapped().map(|region| region.end()).max().unwrap_or(0);
        let pages = end / PAGE_SIZE as u64;
        let window = self.window.max(LEAST_WINDOW * cpus.len() as u32);
        {
            let mut recording = lock(&self.recording);
            let file = recording.file.take().ok_or_else(|| {
                step("recording")(io::Error::other("one recorder records one microVM"))
            })?;
            let writer = Writer::new(BufWriter::new(file), pages, window);
            recording.writer = Some(writer.map_err(step("writing the recording"))?);
        }
        let slots = Reservation::new(end as usize, Backing::Small)?;
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
        let mut window = Window {
            ram: Arc::clone(ram),
            slots,
            userfault,
            pages: vec![Whereabouts::Nowhere; pages as usize],
            present: VecDeque::new(),
            size: window as usize,
            recording: Arc::clone(&self.recording),
            failure: Arc::clone(failure),
        };
        window
            .take_over()
            .map_err(step("taking over guest memory"))?;
        let threads = "starting threads";
        kick::install_handler().map_err(step(threads))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cpu = cpus.first().copied().filter(|_| cpus.len() == 1);
        let body = move || {
            if let Some(cpu) = cpu {
                // Not fatal: slower, but right.
                let _ = affinity::pin(cpu);
            }
            window.handle_faults(&stopped);
        };
        let thread = thread::Builder::new().name("record".into()).spawn(body);
        let thread = Some(thread.map_err(step(threads))?);
        Ok(Box::new(Handler { stop, thread }))
    }
}

/// The one thread that serves pages: the order of touches is that in which it learns of them.
struct Handler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving for Handler {}

impl Drop for Handler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A reader may be about to block when the signal comes, so one is not enough.
            while !thread.is_finished() {
                let _ = thread.kill(kick::kick_signal());
                thread::sleep(Duration::from_micros(200));
            }
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

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
struct Window {
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

    fn handle_faults(&mut self, stop: &AtomicBool) {
        let mut events = [Event::default()];
        while !stop.load(Ordering::Acquire) {
            match self.userfault.read_events(&mut events) {
                Ok(0) => {}
                Ok(_) => self.touched(events[0].address),
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
