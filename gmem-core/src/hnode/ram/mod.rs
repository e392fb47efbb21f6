//! The `ram` hnode: an arena, an address range larger than what may be in it.
//!
//! Frames travel. A fault takes a free frame here, fills it, and the MMU moves it beneath the guest,
//! leaving an empty slot; an eviction moves a guest's page into an empty slot. How many frames exist,
//! here and beneath the guest, is the host budget: a counter that can change while the guest runs.
//!
//! Frames are created by writing (a read would map the shared zero page, which MOVE would carry into the
//! guest, uncounted), and a frame that is used again still has what was in it: whoever takes one fills it
//! whole. Frames of 4 KiB and of 2 MiB live in separate areas.

mod budget;
mod owned;
mod scratch;
mod slots;

pub use owned::{Empty, Frames, Leave};
pub use scratch::{Borrowed, Scratch, ScratchPool};

use crate::mmu::HostAddress;
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, PAGE_SIZE, Unit};
use crate::reserve::{Backing, Reservation, ReserveError};
use crate::table::Frame;
use budget::Budget;
use slots::Slots;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Slots for frames of 4 KiB, at most: free ones to be used next, and those that eviction has taken out and
/// not yet passed on. What is beneath the guest takes no slot, so this does not grow with the budget.
const MOST_PAGE_SLOTS: usize = 16384;
/// At least: a small microVM keeps small lists.
const LEAST_PAGE_SLOTS: usize = 1024;
/// Slots for frames of 2 MiB, likewise. They come first in the arena.
const BLOCK_SLOTS: usize = 64;
/// Where the slots for frames of 4 KiB begin, in pages from the arena's start.
const PAGE_AREA: usize = BLOCK_SLOTS * BLOCK_PAGES;

/// The arena.
#[derive(Debug)]
pub struct Arena {
    space: Reservation,
    page_slots: usize,
    pages: Mutex<Slots>,
    blocks: Mutex<Slots>,
    budget: Budget,
    /// The unit in which free frames are kept to be used again; those of the other unit are released,
    unit: Unit,
    /// but for so many of 2 MiB.
    kept_blocks: AtomicUsize,
}

impl Arena {
    /// An arena in which, together with the guest, up to `budget_pages` frames may exist, and which keeps
    /// free frames in units of `unit`.
    pub fn new(budget_pages: u64, unit: Unit) -> Result<Self, ReserveError> {
        let half = usize::try_from(budget_pages / 2).unwrap_or(MOST_PAGE_SLOTS);
        let page_slots = half.clamp(LEAST_PAGE_SLOTS, MOST_PAGE_SLOTS);
        let block_bytes = PAGE_AREA * PAGE_SIZE;
        let space = Reservation::new(block_bytes + page_slots * PAGE_SIZE, Backing::Small)?;
        // A kernel without huge pages refuses; frames of 2 MiB are then 512 small ones.
        let _ = space.set_backing(0, block_bytes, Backing::Huge);
        Ok(Self {
            space,
            page_slots,
            pages: Mutex::new(Slots::new(page_slots)),
            blocks: Mutex::new(Slots::new(BLOCK_SLOTS)),
            budget: Budget::new(budget_pages),
            unit,
            kept_blocks: AtomicUsize::new(0),
        })
    }

    /// The address range, to be registered with the guest's userfaultfd: for write protection only,
    /// because frames are created here by plain writes.
    pub fn range(&self) -> (HostAddress, usize) {
        (HostAddress(self.space.start()), self.space.len())
    }

    /// Up to `most` (1 to 64) free frames of 4 KiB in consecutive slots, to be filled whole. `None` if
    /// the budget is used up and nothing is free.
    pub fn take(&self, most: usize) -> Option<Frames<'_>> {
        debug_assert!((1..=CLUSTER_PAGES).contains(&most));
        if let Some((first, count)) = self.slots(Unit::Page).take_full(most) {
            return Some(Frames::used_before(
                self,
                first_page(first, Unit::Page),
                count,
                Unit::Page,
            ));
        }
        let mut granted = self.budget.create(most as u64, 1) as usize;
        if granted == 0 {
            // A frame of the other size may lie free.
            let (block, _) = self.slots(Unit::Block).take_full(1)?;
            self.release(first_page(block, Unit::Block), BLOCK_PAGES, Unit::Block);
            granted = self.budget.create(most as u64, 1) as usize;
            if granted == 0 {
                return None;
            }
        }
        // Slots run out only if eviction is far ahead of what passes pages on.
        let taken = self.slots(Unit::Page).take_empty(granted);
        let count = taken.map_or(0, |(_, count)| count);
        self.budget.released((granted - count) as u64);
        taken.map(|(first, count)| {
            Frames::about_to_exist(self, first_page(first, Unit::Page), count, Unit::Page)
        })
    }

    /// A free frame of 2 MiB, to be filled whole.
    pub fn take_block(&self) -> Option<Frames<'_>> {
        if let Some(frames) = self.take_free_block() {
            return Some(frames);
        }
        let pages = BLOCK_PAGES as u64;
        if self.budget.create(pages, pages) == 0 {
            return None;
        }
        match self.slots(Unit::Block).take_empty(1) {
            Some((block, _)) => Some(Frames::about_to_exist(
                self,
                first_page(block, Unit::Block),
                BLOCK_PAGES,
                Unit::Block,
            )),
            None => {
                self.budget.released(pages);
                None
            }
        }
    }

    /// Keeps up to `most` free frames of 2 MiB although the unit is 4 KiB, for [`Arena::take_free_block`]. Whoever finds no other
    /// frame breaks them up.
    pub fn keep_blocks(&self, most: usize) {
        self.kept_blocks.store(most, Ordering::Relaxed);
    }

    /// Whether a frame of 2 MiB lies free.
    pub fn has_free_block(&self) -> bool {
        self.slots(Unit::Block).full() > 0
    }

    /// A frame of 2 MiB that lies free, to be filled whole.
    pub fn take_free_block(&self) -> Option<Frames<'_>> {
        let (block, _) = self.slots(Unit::Block).take_full(1)?;
        let first = first_page(block, Unit::Block);
        Some(Frames::used_before(self, first, BLOCK_PAGES, Unit::Block))
    }

    /// Leave to create `pages` frames of 4 KiB, or the whole ones that they come to, beneath the guest. Free frames are given back to the kernel for
    /// it if need be, many at once. `None` if the budget is used up and too few are free.
    pub fn leave_to_create(&self, pages: usize) -> Option<Leave<'_>> {
        loop {
            if self.budget.create(pages as u64, pages as u64) > 0 {
                return Some(Leave::new(self, pages));
            }
            let (first, count) = self.slots(Unit::Page).take_full(CLUSTER_PAGES)?;
            self.release(first_page(first, Unit::Page), count, Unit::Page);
        }
    }

    /// `pages` frames beneath the guest are no more.
    pub fn dropped(&self, pages: u64) {
        self.budget.released(pages);
    }

    /// Up to `most` (1 to 64) consecutive slots without frames, into which the MMU may move pages. `None`
    /// if so much is staged that the rest of the slots is needed to bring pages in.
    pub fn take_empty(&self, most: usize) -> Option<Empty<'_>> {
        let mut slots = self.slots(Unit::Page);
        if slots.empty() < self.page_slots / 4 {
            return None;
        }
        let (first, count) = slots.take_empty(most)?;
        Some(Empty::new(
            self,
            first_page(first, Unit::Page),
            count,
            Unit::Page,
        ))
    }

    /// A slot of 2 MiB without a frame, likewise.
    pub fn take_empty_block(&self) -> Option<Empty<'_>> {
        let mut slots = self.slots(Unit::Block);
        if slots.empty() < BLOCK_SLOTS / 4 {
            return None;
        }
        let (block, _) = slots.take_empty(1)?;
        Some(Empty::new(
            self,
            first_page(block, Unit::Block),
            BLOCK_PAGES,
            Unit::Block,
        ))
    }

    /// Consecutive slots without frames, `most` of this unit or fewer, for pages that are freed: to the last
    /// one, and one in which a free frame lies if need be, because they are given back at once.
    pub fn take_empty_to_free(&self, most: usize, unit: Unit) -> Option<Empty<'_>> {
        if self.slots(unit).empty() == 0
            && let Some((slot, count)) = self.slots(unit).take_full(most)
        {
            self.release(first_page(slot, unit), count * unit.pages(), unit);
        }
        let (slot, count) = self.slots(unit).take_empty(most)?;
        Some(Empty::new(
            self,
            first_page(slot, unit),
            count * unit.pages(),
            unit,
        ))
    }

    /// Owns again what [`Frames::keep`] named. The caller holds the lock of the entry that names it, and
    /// names each slot once.
    pub fn kept(&self, frame: Frame, pages: usize, unit: Unit) -> Frames<'_> {
        Frames::used_before(self, frame.0 as usize, pages, unit)
    }

    /// How many more pages could be taken now, in the arena's unit.
    pub fn available(&self) -> u64 {
        let slots = self.slots(self.unit);
        let pages = |slots: usize| (slots * self.unit.pages()) as u64;
        let creatable = self.budget.cap().saturating_sub(self.budget.existing());
        pages(slots.full()) + creatable.min(pages(slots.empty()))
    }

    /// Pages of frames that lie free in the arena.
    pub fn free_frames(&self) -> u64 {
        self.slots(Unit::Page).full() as u64 + (self.slots(Unit::Block).full() * BLOCK_PAGES) as u64
    }

    /// Slots, in pages, in which nothing is.
    pub fn empty_slots(&self, unit: Unit) -> usize {
        self.slots(unit).empty() * unit.pages()
    }

    /// How many frames may exist, pages.
    pub fn cap(&self) -> u64 {
        self.budget.cap()
    }

    /// How many frames exist, pages.
    pub fn existing(&self) -> u64 {
        self.budget.existing()
    }

    /// The most that ever existed, pages.
    pub fn peak(&self) -> u64 {
        self.budget.peak()
    }

    /// Changes how many frames may exist. Free frames beyond it are given back to the kernel at once; the
    /// others have to be evicted ([`Arena::excess`]).
    pub fn set_cap(&self, pages: u64) {
        self.budget.set_cap(pages);
        self.release_excess();
    }

    /// How many frames exist beyond the cap.
    pub fn excess(&self) -> u64 {
        self.budget.excess()
    }

    /// Lets frames be created without limit, so that whoever waits for one can be let go: for the end of
    /// a microVM.
    pub fn lift_cap(&self) {
        self.budget.lift();
    }

    /// Counts pages beneath the guest that were there before the arena.
    pub fn adopt(&self, pages: u64) {
        self.budget.adopt(pages);
    }

    /// Memory that the arena's own lists take, bytes.
    pub fn metadata_bytes(&self) -> u64 {
        (self.slots(Unit::Page).metadata_bytes() + self.slots(Unit::Block).metadata_bytes()) as u64
    }

    /// Gives free frames beyond the cap back to the kernel.
    pub fn release_excess(&self) {
        while self.excess() > 0 {
            let page = self.slots(Unit::Page).take_full(1);
            let taken = match page {
                Some((slot, _)) => Some((first_page(slot, Unit::Page), Unit::Page)),
                None => {
                    let block = self.slots(Unit::Block).take_full(1);
                    block.map(|(block, _)| (first_page(block, Unit::Block), Unit::Block))
                }
            };
            let Some((first, unit)) = taken else { return };
            self.release(first, unit.pages(), unit);
        }
    }

    /// Gives frames back to the kernel; their slots are empty.
    fn release(&self, first: usize, pages: usize, unit: Unit) {
        let released = self.space.discard(first * PAGE_SIZE, pages * PAGE_SIZE);
        // It fails only for a range that is not ours or is locked.
        debug_assert!(released.is_ok(), "{released:?}");
        self.budget.released(pages as u64);
        self.now_empty(first, pages, unit);
    }

    /// Puts free frames back to be used again, or releases them if there are too many.
    fn now_free(&self, first: usize, pages: usize, unit: Unit) {
        // While the cap is exceeded a few frames are kept all the same: faults need some to go on while
        // the background thread evicts the excess, which it may do for a while.
        let (full, total) = (self.slots(unit).full(), self.slots_of(unit));
        let enough = if unit != self.unit {
            self.kept_blocks.load(Ordering::Relaxed)
        } else if self.excess() > 0 {
            total / 64
        } else {
            total / 2
        };
        if full >= enough {
            self.release(first, pages, unit);
            return;
        }
        let (slot, count) = in_slots(first, pages, unit);
        self.slots(unit).give_full(slot, count);
    }

    /// The bytes of `pages` pages from page `first` of the arena on.
    ///
    /// # Safety
    ///
    /// The caller owns those slots, and nobody else reaches them for as long as the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "ownership is of slots, not of the arena"
    )]
    unsafe fn bytes_mut(&self, first: usize, pages: usize) -> &mut [u8] {
        let (at, len) = (first * PAGE_SIZE, pages * PAGE_SIZE);
        assert!(at + len <= self.space.len());
        // SAFETY: in bounds by the check above, valid for as long as `self`, any bit pattern is a byte, and
        // nobody else reaches it by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.space.as_ptr().add(at), len) }
    }

    /// How many slots there are for frames of this size.
    const fn slots_of(&self, unit: Unit) -> usize {
        match unit {
            Unit::Page => self.page_slots,
            Unit::Block => BLOCK_SLOTS,
        }
    }

    fn now_empty(&self, first: usize, pages: usize, unit: Unit) {
        let (slot, count) = in_slots(first, pages, unit);
        self.slots(unit).give_empty(slot, count);
    }

    fn slots(&self, unit: Unit) -> MutexGuard<'_, Slots> {
        let slots = match unit {
            Unit::Page => &self.pages,
            Unit::Block => &self.blocks,
        };
        slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number, in pages from the arena's start, of the first page of a slot.
const fn first_page(slot: usize, unit: Unit) -> usize {
    match unit {
        Unit::Page => PAGE_AREA + slot,
        Unit::Block => slot * BLOCK_PAGES,
    }
}

/// Slot number and count, in the area of `unit`, of `pages` pages from page `first` of the arena on.
fn in_slots(first: usize, pages: usize, unit: Unit) -> (usize, usize) {
    match unit {
        Unit::Page => (first - PAGE_AREA, pages),
        Unit::Block => (first / BLOCK_PAGES, pages / BLOCK_PAGES),
    }
}
