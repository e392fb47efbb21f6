//! Which frame has which page, and which are free.

use super::layout::{ENTRY, Layout, RECORD};
use super::unit::{Job, Moves, Unit};
use crate::extent::Extent;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use pager_wire::Page;

/// No frame.
const NONE: u64 = u64::MAX;
/// Where in a record the next free frame is named.
const LINK: u64 = 24;

/// All frames. Free ones are in the order in which they became free, so that neighbours stay neighbours.
pub(super) struct Frames<'a> {
    ram: Extent<'a>,
    layout: Layout,
    first: u64,
    last: u64,
    /// How many are free.
    pub(super) free: u64,
}

impl<'a> Frames<'a> {
    /// All of them free; the index is empty.
    pub(super) fn new(ram: Extent<'a>, layout: Layout) -> Self {
        ram.clear(layout.records..layout.calls);
        let mut frames = Self {
            ram,
            layout,
            first: NONE,
            last: NONE,
            free: 0,
        };
        for frame in 0..layout.frames {
            frames.append(frame);
        }
        frames
    }

    fn record(&self, frame: u64) -> u64 {
        self.layout.records + frame * RECORD
    }

    fn append(&mut self, frame: u64) {
        self.ram.put64(self.record(frame) + LINK, NONE);
        match self.last {
            NONE => self.first = frame,
            last => self.ram.put64(self.record(last) + LINK, frame),
        }
        self.last = frame;
        self.free += 1;
    }

    /// A free frame, of zeros.
    pub(super) fn take(&mut self) -> Option<u64> {
        if self.first == NONE {
            return None;
        }
        let frame = self.first;
        self.first = self.ram.get64(self.record(frame) + LINK);
        if self.first == NONE {
            self.last = NONE;
        }
        self.free -= 1;
        Some(frame)
    }

    /// Zeroes a frame, before anything that is moved into it later.
    pub(super) fn give<U: Unit>(&mut self, frame: u64, moves: &mut Moves<U>) -> Result<(), Fault> {
        let (at, len) = (self.layout.frame(frame), PAGE_SIZE);
        moves.add(Job::Zero { at, len })?;
        self.append(frame);
        Ok(())
    }

    /// Notes what is in a frame.
    pub(super) fn label(&self, frame: u64, page: &Page) {
        let at = self.record(frame);
        self.ram.put64(at, page.version.get());
        self.ram.put_words(at + 8, &page.seal);
    }

    /// What is in a frame: version and seal.
    pub(super) fn labelled(&self, frame: u64) -> (u64, [u8; 16]) {
        let at = self.record(frame);
        let mut seal = [0; 16];
        self.ram.get_words(at + 8, &mut seal);
        (self.ram.get64(at), seal)
    }

    fn entry(&self, client: usize, number: u64) -> u64 {
        self.layout.index + (client as u64 * self.layout.pages + number) * ENTRY
    }

    /// The frame of a client's page, which is below the number of pages of all.
    pub(super) fn of(&self, client: usize, number: u64) -> Option<u64> {
        match number < self.layout.pages {
            true => self.ram.get64(self.entry(client, number)).checked_sub(1),
            false => None,
        }
    }

    /// Notes the frame of a client's page, or that it has none.
    pub(super) fn put(&self, client: usize, number: u64, frame: Option<u64>) {
        let entry = frame.map_or(0, |frame| frame + 1);
        self.ram.put64(self.entry(client, number), entry);
    }
}
