//! Ownership of slots and frames: what is taken is given back when it is dropped, in the state in which it is.

use super::Arena;
use crate::mmu::HostAddress;
use crate::page::{PAGE_SIZE, Unit};
use crate::table::Frame;

/// Frames in consecutive slots of the arena, owned. Dropped, they are free again.
#[derive(Debug)]
pub struct Frames<'a> {
    arena: &'a Arena,
    first: usize,
    pages: usize,
    unit: Unit,
    /// They are created by the first write, so they may not all exist yet.
    fresh: bool,
}

impl<'a> Frames<'a> {
    pub(super) fn used_before(arena: &'a Arena, first: usize, pages: usize, unit: Unit) -> Self {
        Self {
            arena,
            first,
            pages,
            unit,
            fresh: false,
        }
    }

    pub(super) fn about_to_exist(arena: &'a Arena, first: usize, pages: usize, unit: Unit) -> Self {
        Self {
            arena,
            first,
            pages,
            unit,
            fresh: true,
        }
    }

    /// How many pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where the first one is.
    pub fn address(&self) -> HostAddress {
        HostAddress(self.arena.space.start() + self.first * PAGE_SIZE)
    }

    /// Their bytes: whatever the last user left, or zeros. Fill them whole before they are mapped.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: this value owns the slots, and the slice borrows it.
        unsafe { self.arena.bytes_mut(self.first, self.pages) }
    }

    /// The first `pages` of them have been moved beneath the guest: their slots are empty. What is left
    /// is returned.
    pub fn departed(mut self, pages: usize) -> Option<Self> {
        debug_assert!(pages <= self.pages && (self.unit == Unit::Page || pages == self.pages));
        self.arena.now_empty(self.first, pages, self.unit);
        self.first += pages;
        self.pages -= pages;
        if self.pages > 0 {
            return Some(self);
        }
        std::mem::forget(self);
        None
    }

    /// The first `pages` of them, and the rest.
    pub fn split_at(mut self, pages: usize) -> (Option<Self>, Option<Self>) {
        debug_assert!(self.unit == Unit::Page || pages == 0 || pages == self.pages);
        if pages == 0 {
            return (None, Some(self));
        }
        if pages >= self.pages {
            return (Some(self), None);
        }
        let (arena, unit, fresh) = (self.arena, self.unit, self.fresh);
        let rest = Self {
            arena,
            first: self.first + pages,
            pages: self.pages - pages,
            unit,
            fresh,
        };
        self.pages = pages;
        (Some(self), Some(rest))
    }

    /// Gives them back to the kernel at once, instead of keeping them to be used again.
    pub fn release(self) {
        self.arena.release(self.first, self.pages, self.unit);
        std::mem::forget(self);
    }

    /// Leaves them in their slots for as long as an entry of the table names them: page `i` is named by
    /// the returned frame plus `i`. [`Arena::kept`] owns them again.
    pub fn keep(self) -> Frame {
        let frame = Frame(self.first as u64);
        std::mem::forget(self);
        frame
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        if self.fresh {
            self.arena.release(self.first, self.pages, self.unit);
        } else {
            self.arena.now_free(self.first, self.pages, self.unit);
        }
    }
}

/// Consecutive slots without frames, owned. Dropped, they are free again, still without.
#[derive(Debug)]
pub struct Empty<'a> {
    arena: &'a Arena,
    first: usize,
    pages: usize,
    unit: Unit,
}

impl<'a> Empty<'a> {
    pub(super) fn new(arena: &'a Arena, first: usize, pages: usize, unit: Unit) -> Self {
        Self {
            arena,
            first,
            pages,
            unit,
        }
    }

    /// How many pages they have room for.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Where the first one is.
    pub fn address(&self) -> HostAddress {
        HostAddress(self.arena.space.start() + self.first * PAGE_SIZE)
    }

    /// Pages have been moved into the first `pages` slots; the other slots are given back. `None` if
    /// nothing arrived.
    pub fn arrived(self, pages: usize) -> Option<Frames<'a>> {
        debug_assert!(
            pages <= self.pages && (self.unit == Unit::Page || pages == self.pages || pages == 0)
        );
        let Self {
            arena,
            first,
            pages: all,
            unit,
        } = self;
        std::mem::forget(self);
        if pages < all {
            arena.now_empty(first + pages, all - pages, unit);
        }
        (pages > 0).then(|| Frames::used_before(arena, first, pages, unit))
    }
}

impl Drop for Empty<'_> {
    fn drop(&mut self) {
        self.arena.now_empty(self.first, self.pages, self.unit);
    }
}

/// Leave to create frames elsewhere than in the arena. What is not used is given back when this is dropped.
#[derive(Debug)]
pub struct Leave<'a> {
    arena: &'a Arena,
    pages: usize,
}

impl<'a> Leave<'a> {
    pub(super) fn new(arena: &'a Arena, pages: usize) -> Self {
        Self { arena, pages }
    }

    /// So many frames have been created.
    pub fn used(&mut self, pages: usize) {
        debug_assert!(pages <= self.pages);
        self.pages -= pages;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.arena.budget.released(self.pages as u64);
    }
}
