//! Blocks of 2 MiB: in, out, and on.

use super::pass_on::PassedOn;
use super::reclaim::NoRoom;
use super::turning::Turn;
use super::{Engine, FaultError, Outcome};
use crate::hnode::ram::{Empty, Frames};
use crate::hnode::zip::fill::is_zero;
use crate::mmu::{HostAddress, Obstacle};
use crate::page::{BLOCK_PAGES, PAGE_SIZE, PageNo, Unit};
use crate::policy::Victims;
use crate::stats::{Site, Stats};
use crate::table::{Block, Entry, Flags, Place, State, WholeLeaf};

const ALONG: usize = BLOCK_PAGES - 1;

impl Engine {
    /// Brings in a block that is whole where it is.
    pub(super) fn bring_block(&self, block: Block<'_>) -> Result<Outcome, FaultError> {
        let entry = block.entry();
        let (mut frames, _turning) = match entry.state() {
            State::Held(Place {
                hnode: Place::RAM,
                frame,
            }) => {
                let frames = self.arena.kept(frame, BLOCK_PAGES, Unit::Block);
                return match self.map_block(block.start(), frames.address()) {
                    Ok(()) => {
                        frames.departed(BLOCK_PAGES);
                        self.staged.less(BLOCK_PAGES);
                        Ok(self.block_is_mapped(block, entry))
                    }
                    Err(error) => {
                        frames.keep();
                        Err(error)
                    }
                };
            }
            _ => match self.block_frame()? {
                Some(frames) => frames,
                None => return Ok(Outcome::Waiting),
            },
        };
        match entry.state() {
            State::Held(place) => self.load(block.start(), place, frames.bytes_mut())?,
            _ => frames.bytes_mut().fill(0),
        }
        self.map_block(block.start(), frames.address())?;
        frames.departed(BLOCK_PAGES);
        if let State::Held(place) = entry.state() {
            self.tier(place.hnode).free(place.frame, Unit::Block);
        }
        Ok(self.block_is_mapped(block, entry))
    }

    /// Brings in a block whose pages are in different places, and makes it whole; `None` if it has to stay
    /// in small pages: some of it is in RAM (it was present in small pages when memory was armed) or pinned.
    pub(super) fn bring_leaf(&self, leaf: WholeLeaf<'_>) -> Result<Option<Outcome>, FaultError> {
        let start = leaf.start();
        let entries: Vec<Entry> = (0..BLOCK_PAGES).map(|index| leaf.entry(index)).collect();
        let stays = |entry: &Entry| {
            matches!(Self::site(entry.state()), Site::Host | Site::Staged)
                || matches!(entry.state(), State::Held(place) if self.is_device(place))
                || entry.flags().has(Flags::PINNED)
        };
        if entries.iter().any(stays) {
            return Ok(None);
        }
        let Some((mut frames, _turning)) = self.block_frame()? else {
            return Ok(Some(Outcome::Waiting));
        };
        for (index, page) in frames.bytes_mut().chunks_exact_mut(PAGE_SIZE).enumerate() {
            match entries[index].state() {
                State::Held(place) => self.load(start.add(index as u64), place, page)?,
                _ => page.fill(0),
            }
        }
        self.map_block(start, frames.address())?;
        frames.departed(BLOCK_PAGES);
        leaf.collapse(mapped_block());
        for entry in entries {
            if let State::Held(place) = entry.state() {
                self.tier(place.hnode).free(place.frame, Unit::Page);
            }
            self.stats.moved(Self::site(entry.state()), Site::Host, 1);
        }
        Ok(Some(Outcome::Resolved { along: ALONG }))
    }

    /// Gives each page of a whole block a word of its own; its frame stays one until a part of it leaves.
    pub(super) fn split(&self, block: Block<'_>) {
        if block.entry().state() == State::Mapped {
            Stats::one(&self.stats.splits);
        }
        block.split();
    }

    fn block_frame(&self) -> Result<Option<(Frames<'_>, Turn<'_>)>, FaultError> {
        loop {
            let turning = self.turning.begin();
            if let Some(frames) = self.arena.take_block() {
                return Ok(Some((frames, turning)));
            }
            drop(turning);
            match self.make_room(BLOCK_PAGES as u64) {
                Ok(()) => {}
                Err(NoRoom::Full) => return Ok(None),
                Err(NoRoom::Failed(error)) => return Err(error),
            }
        }
    }

    /// Fills `into` from where a page or block is held in a tier.
    pub(super) fn load(
        &self,
        page: PageNo,
        place: Place,
        into: &mut [u8],
    ) -> Result<(), FaultError> {
        self.withdraw(place.hnode, page, into.len() / PAGE_SIZE);
        let tier = self.tier(place.hnode);
        tier.load(place.frame, into)
            .map_err(|source| FaultError::Load {
                page,
                tier: tier.name().to_owned(),
                source,
            })?;
        self.sent_out(place.hnode, into.len() / PAGE_SIZE);
        Ok(())
    }

    /// Moves a block's frame beneath the guest, all of it or nothing.
    pub(super) fn map_block(&self, start: PageNo, slot: HostAddress) -> Result<(), FaultError> {
        let moved = self.map_patiently(slot, start, BLOCK_PAGES);
        let Some(obstacle) = moved.stopped else {
            return Ok(());
        };
        let error = FaultError::Mmu {
            verb: "put beneath the guest",
            page: start.add(moved.pages as u64),
            obstacle,
        };
        if moved.pages > 0 {
            // The microVM ends either way; what can be put back is.
            self.leave(start, slot, moved.pages);
        }
        Err(error)
    }

    fn block_is_mapped(&self, block: Block<'_>, before: Entry) -> Outcome {
        let rescued = self.unit == Unit::Page && Self::site(before.state()) == Site::Staged;
        if rescued && self.promotion.rescued(block.number()) {
            Stats::one(&self.stats.splits);
            block.split_into(|_| Entry::new(State::Mapped, Flags::DIRTY));
        } else {
            block.commit(mapped_block());
        }
        self.stats
            .moved(Self::site(before.state()), Site::Host, BLOCK_PAGES);
        Outcome::Resolved { along: ALONG }
    }

    /// Takes a mapped block out of the guest's reach, into the arena; returns whether it left.
    pub(super) fn take_out_block(&self, number: u64) -> Result<bool, FaultError> {
        let Some(block) = self.table.try_lock_block(number) else {
            return Ok(false);
        };
        let entry = block.entry();
        if entry.state() != State::Mapped || entry.flags().has(Flags::PINNED) {
            return Ok(false);
        }
        if self.unit == Unit::Page && self.free_below() < BLOCK_PAGES as u64 {
            // It would find no room whole; its pages may, one by one.
            self.split(block);
            return Ok(false);
        }
        let Some(empty) = self.arena.take_empty_block() else {
            return Ok(false);
        };
        let Some(frames) = self.unmap_block(&block, empty)? else {
            Stats::one(&self.stats.busy);
            return Ok(false);
        };
        self.staged.more(BLOCK_PAGES);
        self.stats.moved(Site::Host, Site::Staged, BLOCK_PAGES);
        block.commit(Entry::held(Place::RAM, frames.keep(), entry.flags()));
        Ok(true)
    }

    /// Takes a mapped block's frame out of the guest's reach, all of it or nothing; `None` if it is busy.
    pub(super) fn unmap_block<'a>(
        &self,
        block: &Block<'_>,
        empty: Empty<'a>,
    ) -> Result<Option<Frames<'a>>, FaultError> {
        let moved = self.leave(block.start(), empty.address(), BLOCK_PAGES);
        let Some(obstacle) = moved.stopped else {
            return Ok(empty.arrived(BLOCK_PAGES));
        };
        if moved.pages > 0 {
            let back = self.map_patiently(empty.address(), block.start(), moved.pages);
            if let Some(obstacle) = back.stopped {
                return Err(FaultError::Mmu {
                    verb: "put back beneath the guest",
                    page: block.start().add(back.pages as u64),
                    obstacle,
                });
            }
        }
        match obstacle {
            Obstacle::Busy => Ok(None),
            _ => Err(FaultError::Mmu {
                verb: "taken from the guest",
                page: block.start().add(moved.pages as u64),
                obstacle,
            }),
        }
    }

    /// Passes a staged block on to the first tier that has room for it, whole if it can be.
    pub(super) fn pass_on_block(
        &self,
        number: u64,
        only: Option<u8>,
    ) -> Result<PassedOn, FaultError> {
        let Some(block) = self.table.try_lock_block(number) else {
            if Self::site(self.table.peek(PageNo(number * BLOCK_PAGES as u64)).state())
                == Site::Staged
            {
                self.staged.push(Victims::Block(number));
            }
            return Ok(PassedOn::default());
        };
        let entry = block.entry();
        let State::Held(Place {
            hnode: Place::RAM,
            frame,
        }) = entry.state()
        else {
            return Ok(PassedOn::default());
        };
        let mut frames = self.arena.kept(frame, BLOCK_PAGES, Unit::Block);
        if is_zero(frames.bytes_mut()) {
            block.commit(Entry::new(State::Untouched, Flags::NONE));
            self.stats.moved(Site::Host, Site::Zero, BLOCK_PAGES);
        } else if let Some(place) = self.store_block(frames.bytes_mut(), only) {
            block.commit(Entry::new(State::Held(place), entry.flags()));
            self.stats
                .moved(Site::Host, Site::Tier(place.hnode), BLOCK_PAGES);
        } else if let Some(entries) = self.store_scattered(frames.bytes_mut(), only) {
            for entry in &entries {
                self.stats.moved(Site::Host, Self::site(entry.state()), 1);
            }
            block.split_into(|index| entries[index]);
        } else if self.unit == Unit::Block {
            frames.keep();
            self.staged.push(Victims::Block(number));
            return Ok(PassedOn {
                freed: 0,
                refused: true,
            });
        } else {
            // Its pages may find room one by one: back beneath the guest, in pieces.
            if let Err(error) = self.map_block(block.start(), frames.address()) {
                frames.keep();
                return Err(error);
            }
            frames.departed(BLOCK_PAGES);
            self.staged.less(BLOCK_PAGES);
            Stats::one(&self.stats.splits);
            block.split_into(|_| Entry::new(State::Mapped, Flags::DIRTY));
            return Ok(PassedOn {
                freed: 0,
                refused: true,
            });
        }
        self.staged.less(BLOCK_PAGES);
        Ok(PassedOn {
            freed: BLOCK_PAGES,
            refused: false,
        })
    }

    /// Stores a block whole in the first tier that can hold it.
    pub(super) fn store_block(&self, bytes: &[u8], only: Option<u8>) -> Option<Place> {
        self.candidates(only)
            .filter(|(_, tier)| tier.capabilities().blocks)
            .find_map(|(hnode, tier)| match tier.store(bytes) {
                Ok(frame) => Some(Place { hnode, frame }),
                Err(error) => {
                    self.note(&error);
                    None
                }
            })
    }

    /// Stores a block's pages one by one wherever there is room: all of them, or none.
    pub(super) fn store_scattered(&self, bytes: &[u8], only: Option<u8>) -> Option<Vec<Entry>> {
        let mut entries = Vec::with_capacity(BLOCK_PAGES);
        for page in bytes.chunks_exact(PAGE_SIZE) {
            let entry = if is_zero(page) {
                Some(Entry::new(State::Untouched, Flags::NONE))
            } else {
                self.candidates(only)
                    .find_map(|(hnode, tier)| match tier.store(page) {
                        Ok(frame) => Some(Entry::held(hnode, frame, Flags::NONE)),
                        Err(error) => {
                            self.note(&error);
                            None
                        }
                    })
            };
            let Some(entry) = entry else {
                for entry in entries {
                    self.free_in_tier(entry);
                }
                return None;
            };
            entries.push(entry);
        }
        Some(entries)
    }

    /// Frees the tier's frame of a page that is held in one.
    fn free_in_tier(&self, entry: Entry) {
        if let State::Held(place) = entry.state() {
            self.tier(place.hnode).free(place.frame, Unit::Page);
        }
    }
}

pub(super) fn mapped_block() -> Entry {
    Entry::new(State::Mapped, Flags::DIRTY.with(Flags::ACCESSED))
}
