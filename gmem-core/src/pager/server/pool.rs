//! What a server lends: hnodes of this process, to several clients.

use std::sync::Mutex;
use std::sync::PoisonError;

use pager_wire::MAX_PAGES;

use crate::hnode::{Frame, Hnode, LoadError, SharedMemory, StoreError};
use crate::page::{PAGE_SIZE, Unit};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    hnode: u8,
    frame: Frame,
}

/// Hnodes, nearest first, and how much of them is promised.
pub(super) struct Pool {
    hnodes: Vec<Box<dyn Hnode>>,
    promised: Mutex<u64>,
}

impl Pool {
    pub(super) fn new(hnodes: Vec<Box<dyn Hnode>>) -> Self {
        Self {
            hnodes,
            promised: Mutex::new(0),
        }
    }

    /// Pages that it certainly holds.
    pub(super) fn capacity(&self) -> u64 {
        self.hnodes
            .iter()
            .map(|hnode| hnode.guaranteed_pages())
            .sum()
    }

    pub(super) fn hnodes(&self) -> &[Box<dyn Hnode>] {
        &self.hnodes
    }

    pub(super) fn promised(&self) -> u64 {
        *self.lock()
    }

    /// Changes what somebody is promised from `old` to `new` pages, if there is so much.
    pub(super) fn promise(&self, old: u64, new: u64) -> bool {
        let mut promised = self.lock();
        match (*promised - old).checked_add(new) {
            Some(sum) if sum <= self.capacity() => {
                *promised = sum;
                true
            }
            _ => false,
        }
    }

    /// Stores pages that lie together, in as few requests as there are hnodes with room.
    pub(super) fn store(&self, bytes: &[u8], places: &mut Vec<Place>) -> Result<(), StoreError> {
        let (mut done, mut refused) = (0, StoreError::Full);
        for (hnode, at) in self.hnodes.iter().zip(0..) {
            let stored = hnode.store_pages(&bytes[done * PAGE_SIZE..], &mut |_, frame| {
                places.push(Place { hnode: at, frame });
                done += 1;
            });
            if let Err(error) = stored {
                refused = error;
            }
            if done * PAGE_SIZE == bytes.len() {
                return Ok(());
            }
        }
        places.drain(..).for_each(|place| self.free(place));
        Err(refused)
    }

    /// Loads pages to lie together.
    pub(super) fn load(&self, places: &[Place], into: &mut [u8]) -> Result<(), LoadError> {
        self.each_hnode(places, |hnode, frames, at| {
            let part = &mut into[at * PAGE_SIZE..(at + frames.len()) * PAGE_SIZE];
            hnode.load_pages(frames, part)
        })
    }

    /// The same, into memory that another process sees, from offset `to` on.
    pub(super) fn load_shared(
        &self,
        places: &[Place],
        into: &SharedMemory,
        to: usize,
    ) -> Result<(), LoadError> {
        self.each_hnode(places, |hnode, frames, at| {
            hnode.load_shared(frames, into, to + at * PAGE_SIZE)
        })
    }

    /// Calls `load` with frames of one hnode that are wanted one after the other, from which of them on.
    fn each_hnode(
        &self,
        places: &[Place],
        mut load: impl FnMut(&dyn Hnode, &[Frame], usize) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let mut frames = [Frame(0); MAX_PAGES];
        let mut at = 0;
        for run in places.chunk_by(|one, other| one.hnode == other.hnode) {
            let frames = &mut frames[..run.len()];
            frames
                .iter_mut()
                .zip(run)
                .for_each(|(frame, place)| *frame = place.frame);
            load(&*self.hnodes[usize::from(run[0].hnode)], frames, at)?;
            at += run.len();
        }
        Ok(())
    }

    /// Frees a page. What was in it is nowhere any more.
    pub(super) fn free(&self, place: Place) {
        let hnode = &self.hnodes[usize::from(place.hnode)];
        hnode.wipe(place.frame, Unit::Page);
        hnode.free(place.frame, Unit::Page);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, u64> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
