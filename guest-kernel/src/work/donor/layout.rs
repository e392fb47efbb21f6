//! How a donor's memory is cut up: what is lent first, then what it knows about that, then queues.
//!
//! | piece | what |
//! |---|---|
//! | frames | pages in the accelerator's memory, lent or free |
//! | records | of each frame 32 bytes: version, seal, and the next free one |
//! | index | of each client, 8 bytes for each page that it could have: its frame |
//! | control | queues and buffers of the virtio-gmem and of the accelerator |

use super::CLIENTS;
use crate::accel::{calls, gmem, xpu};
use crate::memory::PAGE_SIZE;
use crate::plan::PlanError;
use pager_wire::MAX_PAGES;

/// What pieces that accelerators share with nobody are rounded up to.
const GRANULE: u64 = 64 << 10;
/// Frames beyond those that are promised: pages are stored anew before the old ones are free.
const SPARE: u64 = MAX_PAGES as u64;
/// Of the accelerator's memory, what buffers may take up.
const SLACK: u64 = 4 << 20;
/// Bytes of a record.
pub(super) const RECORD: u64 = 32;
/// Bytes of an entry of the index.
pub(super) const ENTRY: u64 = 8;
const CONTROL: u64 = (calls::BYTES + gmem::BYTES + xpu::BYTES).next_multiple_of(PAGE_SIZE);

/// Where the pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Pages that may be promised.
    pub(super) pages: u64,
    /// Frames, the spare ones included.
    pub(super) frames: u64,
    /// Where the frames begin.
    pub(super) lent: u64,
    pub(super) records: u64,
    pub(super) index: u64,
    pub(super) calls: u64,
    pub(super) door: u64,
    pub(super) rings: u64,
    pub(super) end: u64,
}

impl Layout {
    /// In `available` pages from `start` on, with so much memory of the accelerator.
    ///
    /// # Errors
    ///
    /// There is too little of one of them.
    pub(super) fn new(
        (start, available): (u64, u64),
        size: Option<u64>,
        memory: u64,
    ) -> Result<Self, PlanError<'static>> {
        let whole = |pages| Self::at(start, pages);
        let room = available * PAGE_SIZE;
        let pages = match size {
            Some(size) => size.div_ceil(PAGE_SIZE),
            None => {
                // All of it, but for rounding.
                let fixed = whole(0).end - start + 2 * GRANULE + 2 * PAGE_SIZE;
                let each = PAGE_SIZE + RECORD + CLIENTS as u64 * ENTRY;
                let here = room.saturating_sub(fixed) / each;
                let there = memory.saturating_sub(SLACK) / PAGE_SIZE;
                here.min(there.saturating_sub(SPARE)).max(1)
            }
        };
        // A size beyond any memory.
        let fits = pages <= available;
        let layout = whole(if fits { pages } else { 0 });
        if !fits || layout.end - start > room {
            let wanted = match fits {
                true => (layout.end - start).div_ceil(PAGE_SIZE),
                false => pages,
            };
            return Err(PlanError::TooSmall { wanted, available });
        }
        let wanted = layout.frames * PAGE_SIZE + SLACK;
        match wanted > memory {
            true => Err(PlanError::Lent { wanted, memory }),
            false => Ok(layout),
        }
    }

    fn at(start: u64, pages: u64) -> Self {
        let frames = pages + SPARE;
        let records = start + (frames * PAGE_SIZE).next_multiple_of(GRANULE);
        let index = records + frames * RECORD;
        let calls = (index + CLIENTS as u64 * pages * ENTRY).next_multiple_of(GRANULE);
        let door = calls + calls::BYTES;
        let rings = door + gmem::BYTES;
        Self {
            pages,
            frames,
            lent: start,
            records,
            index,
            calls,
            door,
            rings,
            end: calls + CONTROL,
        }
    }

    /// Where a frame is.
    pub(super) fn frame(&self, frame: u64) -> u64 {
        self.lent + frame * PAGE_SIZE
    }

    /// Bytes of all frames.
    pub(super) fn lent_bytes(&self) -> u64 {
        self.frames * PAGE_SIZE
    }
}
