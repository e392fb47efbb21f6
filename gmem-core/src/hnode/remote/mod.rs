//! Pages that somebody else holds.
//!
//! A page that is stored is sealed and sent to every holder, and nobody waits for their answers: until one has it, it is kept
//! here too, and read from here. What comes back is opened, and is the page that was stored or is refused; then the next holder
//! that has it is asked. A holder that dies, or has forgotten, is given everything again from another when it is back.

mod announced;
mod as_hnode;
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

use super::frames::Frames;
use super::{Frame, StoreError};
use crate::page::PAGE_SIZE;
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

/// How long to wait for holders of whom nobody waits for an answer.
const BREATH: Duration = Duration::from_millis(1);

/// How long a holder has to answer when the microVM is about to end.
const AT_THE_END: Duration = Duration::from_millis(300);

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
    /// Nobody waits long any more.
    ending: AtomicBool,
    /// The keeper is to end.
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
            ending: AtomicBool::new(false),
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
        self.shared.ending.store(true, Ordering::Relaxed);
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
            if Instant::now() >= until || self.ending.load(Ordering::Relaxed) {
                return false;
            }
            let before = Instant::now();
            for holder in &self.holders {
                holder.receive(before + keeper::TICK);
            }
            // Who is waited for by nobody returns at once: the keeper sends again what is to be sent.
            if before.elapsed() < BREATH {
                std::thread::sleep(BREATH);
            }
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
        Instant::now() + self.longest()
    }

    /// How long one request may take.
    fn longest(&self) -> Duration {
        match self.ending.load(Ordering::Relaxed) {
            true => self.options.deadline.min(AT_THE_END),
            false => self.options.deadline,
        }
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
        let until = Instant::now() + self.options.deadline;
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

#[cfg(test)]
mod tests;
