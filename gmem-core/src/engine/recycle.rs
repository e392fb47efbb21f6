//! A block becomes one frame by way of a frame of 2 MiB that another block has left.
//!
//! The kernel's own way allocates a frame, which costs milliseconds where a hypervisor has to be asked for it, and first waits for
//! a thread of its own on each CPU. A frame that lies in the arena has been touched: the block is protected against writing,
//! copied there, dropped, and moved back beneath the guest as one.

use super::block::mapped_block;
use super::{Engine, FaultError};
use crate::page::BLOCK_PAGES;
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::{Entry, Flags, Place, WholeLeaf};

/// Frames of 2 MiB that are kept for it.
const KEPT: usize = 1;

impl Engine {
    /// From now on frames that promoted blocks leave are kept.
    pub(super) fn keep_block_frames(&self) {
        self.arena.keep_blocks(KEPT);
    }

    /// Makes one frame of a full block that no accelerator shares, out of one that lies free. Gives the block back if it is as it
    /// was: there is no such frame, or the block cannot be protected.
    pub(super) fn recycle_into<'t>(
        &self,
        leaf: WholeLeaf<'t>,
    ) -> Result<Option<WholeLeaf<'t>>, FaultError> {
        let start = leaf.start();
        let Some(mut frames) = self.arena.take_free_block() else {
            return Ok(Some(leaf));
        };
        let copied = {
            // As for pages that leave together.
            let unshared = self.unshared();
            unshared.is_some()
                && self.beneath.protect(start, BLOCK_PAGES)
                && self.beneath.read(start, frames.bytes_mut())
                && self.beneath.discard(&[(start, BLOCK_PAGES)]) == 1
        };
        if !copied {
            self.beneath.unprotect(start, BLOCK_PAGES);
            self.beneath.wake(start, BLOCK_PAGES);
            return Ok(Some(leaf));
        }
        self.arena.dropped(BLOCK_PAGES as u64);
        let moved = self.map_block(start, frames.address());
        match &moved {
            Ok(()) => {
                frames.departed(BLOCK_PAGES);
                leaf.collapse(mapped_block());
            }
            Err(_) => {
                self.staged.more(BLOCK_PAGES);
                self.stats.moved(Site::Host, Site::Staged, BLOCK_PAGES);
                leaf.collapse(Entry::held(Place::RAM, frames.keep(), Flags::DIRTY));
                self.staged.push(Victims::Block(start.block()));
            }
        }
        // Who wrote meanwhile tries again.
        self.beneath.wake(start, BLOCK_PAGES);
        moved.map(|()| None)
    }
}
