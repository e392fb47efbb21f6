//! Pages that somebody else holds.
//!
//! A page that is stored is sealed and sent to every holder, and nobody waits for their answers: until one has it, it is kept
//! here too, and read from here. What comes back is opened, and is the page that was stored or is refused; then the next holder
//! that has it is asked. A holder that dies, or has forgotten, is given everything again from another when it is back.

mod announced;
mod flight;
mod keeper;
mod load;
mod marks;
mod seal;
mod troubles;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pager_wire::{MAX_PAGES, Page};
use zerocopy::FromZeros;

use super::frames::Frames;
use super::{
    Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, Peers, StoreError, Usage,
    unit_of,
};
use crate::page::{PAGE_SIZE, Unit};
use crate::pager::holder::{Holder, Verb};
use announced::Announced;
use flight::Flight;
pub use marks::HOLDERS;
use marks::Marks;
use seal::Sealer;
pub use troubles::Troubles;

/// Pages that may be on their way at once.
const FLIGHT: usize = 1024;
/// Pages to be forgotten that are asked for together.
const FREES: usize = 4 * MAX_PAGES;

/// What happens when no holder gives a page back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Who needs it waits for as long as it takes.
    Wait,
    /// The microVM ends.
    Fail,
}

/// What a remote tier is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether pages are encrypted before they leave. Sealed they are always.
    pub encrypted: bool,
    /// How long no holder may give a page back before [`OnFailure`] matters.
    pub deadline: Duration,
    /// See there.
    pub on_failure: OnFailure,
}

/// A tier whose pages are elsewhere.
pub struct Remote {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    frames: Frames,
    marks: Marks,
    sealer: Sealer,
    holders: Vec<Arc<dyn Holder>>,
    options: Options,
    flight: Mutex<Flight>,
    announced: Announced,
    /// The life of each holder that the marks are about.
    lives: Vec<AtomicU64>,
    troubles: Troubles,
    stop: AtomicBool,
}

impl Remote {
    /// A tier of `bytes` (rounded down to pages) at `holders`, at most [`HOLDERS`], each of which has room for all of it.
    ///
    /// # Errors
    /// Without random numbers or a thread.
    pub fn new(
        name: impl Into<String>,
        bytes: u64,
        holders: Vec<Arc<dyn Holder>>,
        options: Options,
    ) -> std::io::Result<Self> {
        assert!(
            (1..=HOLDERS).contains(&holders.len()),
            "1 to {HOLDERS} holders"
        );
        let frames = bytes / PAGE_SIZE as u64;
        let shared = Arc::new(Shared {
            name: name.into(),
            frames: Frames::new(frames),
            marks: Marks::new(frames),
            sealer: Sealer::new(options.encrypted)?,
            lives: holders
                .iter()
                .map(|it| AtomicU64::new(it.health().life))
                .collect(),
            holders,
            options,
            flight: Mutex::default(),
            announced: Announced::default(),
            troubles: Troubles::default(),
            stop: AtomicBool::new(false),
        });
        let keeps = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || keeper::run(&keeps))?;
        Ok(Self {
            shared,
            keeper: Some(keeper),
        })
    }

    /// Pages that no holder has yet.
    pub fn pages_on_their_way(&self) -> usize {
        self.shared.flight().pages()
    }

    /// What it has seen.
    pub fn troubles(&self) -> &Troubles {
        &self.shared.troubles
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // A panic of its has been reported.
            let _ = keeper.join();
        }
        self.shared.forget_all();
        self.shared.holders.iter().for_each(|holder| holder.leave());
    }
}

impl Shared {
    fn flight(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a holder may be given pages.
    fn takes(&self, holder: usize) -> bool {
        let health = self.holders[holder].health();
        health.up && !health.draining
    }

    /// Makes room for so many pages on their way; false if there is none by then.
    fn clear_flight(&self, pages: usize, until: Instant) -> bool {
        loop {
            {
                let mut flight = self.flight();
                if flight.pages() + pages <= FLIGHT {
                    return true;
                }
                flight.reap(&self.holders, &self.marks);
                if flight.pages() + pages <= FLIGHT {
                    return true;
                }
            }
            if Instant::now() >= until || self.stop.load(Ordering::Relaxed) {
                return false;
            }
            self.holders
                .iter()
                .for_each(|holder| holder.receive(Instant::now() + keeper::TICK));
        }
    }

    /// Sends pages of 4 KiB that lie together, with a frame each.
    fn send(&self, frames: &[Frame], bytes: &[u8]) {
        let mut sealed = bytes.to_vec();
        let pages = frames
            .iter()
            .zip(sealed.chunks_exact_mut(PAGE_SIZE))
            .map(|(frame, bytes)| {
                let version = self.marks.renew(frame.0);
                self.sealer.seal(frame.0, version, bytes)
            });
        let pages: Vec<Page> = pages.collect();
        let mut flight = self.flight();
        flight.reap(&self.holders, &self.marks);
        flight.send(&self.holders, &self.marks, (pages, sealed), self.late());
    }

    /// When a request that begins now is late.
    fn late(&self) -> Instant {
        Instant::now() + self.options.deadline
    }

    /// How long a store may wait for earlier ones: others have pages that they want to read meanwhile.
    fn patience(&self) -> Instant {
        Instant::now() + self.options.deadline.min(Duration::from_millis(500))
    }

    /// Asks holders that would keep them to forget all pages, at the end.
    fn forget_all(&self) {
        let keeps: Vec<_> = self
            .holders
            .iter()
            .filter(|it| it.keeps_versions() && it.health().up)
            .collect();
        if keeps.is_empty() {
            return;
        }
        let until = self.late();
        let mut pages: Vec<Page> = (0..self.marks.len())
            .map(|frame| self.wanted(Frame(frame)))
            .collect();
        pages.retain(|page| page.version != 0);
        pages.extend(self.flight().take_freed());
        for holder in keeps {
            for pages in pages.chunks(MAX_PAGES) {
                match holder.start(Verb::Free, pages, &[], until) {
                    Ok(ticket) => drop(holder.finish(ticket, &mut Vec::new(), &mut [], until)),
                    Err(_) => break,
                }
            }
        }
    }

    fn stalled() -> StoreError {
        StoreError::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "its holders do not take what they are sent",
        ))
    }
}

impl Hnode for Remote {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn kind(&self) -> Kind {
        Kind::Remote
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: true,
            persistent: false,
            latency: LatencyClass::Device,
            owner: Owner::Peer,
        }
    }

    fn usage(&self) -> Usage {
        self.shared.frames.usage()
    }

    fn guaranteed_pages(&self) -> u64 {
        self.shared.frames.total()
    }

    fn free_pages(&self) -> u64 {
        match (0..self.shared.holders.len()).any(|holder| self.shared.takes(holder)) {
            true => self.shared.frames.free_pages(),
            false => 0,
        }
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        let unit = unit_of(bytes.len())?;
        if self.is_going() {
            return Err(StoreError::Full);
        }
        let frame = self.shared.frames.take(unit).ok_or(StoreError::Full)?;
        let all: Vec<Frame> = (0..unit.pages() as u64)
            .map(|at| Frame(frame.0 + at))
            .collect();
        let until = self.shared.patience();
        for (frames, bytes) in all
            .chunks(MAX_PAGES)
            .zip(bytes.chunks(MAX_PAGES * PAGE_SIZE))
        {
            if !self.shared.clear_flight(frames.len(), until) {
                all.iter().for_each(|frame| self.forget(*frame));
                self.shared.frames.give_back(frame, unit);
                return Err(Shared::stalled());
            }
            self.shared.send(frames, bytes);
        }
        Ok(frame)
    }

    fn store_pages(
        &self,
        bytes: &[u8],
        stored: &mut dyn FnMut(usize, Frame),
    ) -> Result<usize, StoreError> {
        if self.is_going() {
            return Ok(0);
        }
        let mut done = 0;
        for bytes in bytes.chunks(MAX_PAGES * PAGE_SIZE) {
            let pages = bytes.len() / PAGE_SIZE;
            if !self.shared.clear_flight(pages, self.shared.patience()) {
                return Err(Shared::stalled());
            }
            let frames: Vec<Frame> = (0..pages)
                .map_while(|_| self.shared.frames.take(Unit::Page))
                .collect();
            if !frames.is_empty() {
                self.shared
                    .send(&frames, &bytes[..frames.len() * PAGE_SIZE]);
            }
            for frame in &frames {
                stored(done, *frame);
                done += 1;
            }
            if frames.len() < pages {
                break;
            }
        }
        Ok(done)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let frames: Vec<Frame> = (0..(into.len() / PAGE_SIZE) as u64)
            .map(|at| Frame(frame.0 + at))
            .collect();
        self.load_pages(&frames, into)
    }

    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        self.shared.load(frames, into)
    }

    fn announce(&self, frames: &[Frame]) {
        self.shared.announce(frames);
    }

    fn free(&self, frame: Frame, unit: Unit) {
        for at in 0..unit.pages() as u64 {
            self.forget(Frame(frame.0 + at));
        }
        self.shared.frames.give_back(frame, unit);
    }

    fn peers(&self) -> Option<Peers> {
        Some(self.shared.peers())
    }

    fn metadata_bytes(&self) -> u64 {
        self.shared.marks.bytes()
    }

    fn is_going(&self) -> bool {
        let holders = &self.shared.holders;
        holders.iter().any(|it| it.health().draining)
            && !holders.iter().any(|it| {
                let health = it.health();
                health.up && !health.draining
            })
    }
}

impl Remote {
    /// Nothing is in a frame any more; its holders are told, some time.
    fn forget(&self, frame: Frame) {
        let version = self.shared.marks.clear(frame.0);
        if version == 0 {
            return;
        }
        let page = Page {
            number: frame.0.into(),
            version: version.into(),
            ..Page::new_zeroed()
        };
        let mut flight = self.shared.flight();
        if flight.free(page) >= FREES {
            let until = self.shared.patience();
            flight.send_frees(&self.shared.holders, &self.shared.marks, until);
        }
    }
}

#[cfg(test)]
mod tests;
