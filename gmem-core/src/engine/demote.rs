//! A tier that fills passes pages on to those below it, so that what is evicted next finds room near.

use super::pass_on::AT_ONCE;
use super::{Engine, FaultError};
use crate::hnode::ram::Scratch;
use crate::page::{BLOCK_CLUSTERS, BLOCK_PAGES, ClusterNo, PAGE_SIZE, Unit, runs};
use crate::stats::Site;
use crate::table::{Block, ClusterView, Entry, Flags, Frame, State};
use std::sync::{Mutex, PoisonError};

/// Where each tier's hand is, and the memory through which its pages pass.
#[derive(Debug)]
pub(super) struct Demotion(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    hands: Vec<u64>,
    scratch: Option<Scratch>,
}

impl Demotion {
    pub(super) fn new(tiers: usize) -> Self {
        Self(Mutex::new(Inner {
            hands: vec![0; tiers],
            scratch: None,
        }))
    }
}

/// Free pages below which a tier of `total` pages passes pages on.
fn low_watermark(total: u64) -> u64 {
    (total / 64).clamp(64, 2048).min(total / 4)
}

impl Engine {
    /// Demotes from tiers that are nearly full, nearest first; returns how many pages moved.
    pub(super) fn relieve_tiers(&self) -> Result<usize, FaultError> {
        let mut moved = 0;
        for at in 0..self.tiers.len().saturating_sub(1) {
            let tier = &self.tiers[at];
            let low = low_watermark(tier.guaranteed_pages());
            // Looked at once: faults free frames meanwhile.
            let free = tier.free_pages();
            if free >= low {
                continue;
            }
            let below = self.tiers[at + 1..]
                .iter()
                .map(|tier| tier.free_pages())
                .sum::<u64>();
            let wanted = (2 * low).saturating_sub(free).min(below);
            // In units of blocks, what does not take a block takes nothing.
            if wanted > 0 && below >= self.unit.pages() as u64 {
                moved += self.demote(at as u8 + 1, wanted as usize)?;
            }
        }
        Ok(moved)
    }

    /// Moves up to `wanted` pages (a whole block at the end may exceed it) of tier `from` to tiers below
    /// it, in the order of the clock's hand. Stops after one round.
    pub(super) fn demote(&self, from: u8, wanted: usize) -> Result<usize, FaultError> {
        let mut inner = self
            .demotion
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Inner { hands, scratch } = &mut *inner;
        let Some(scratch) = scratch_or_new(scratch) else {
            return Ok(0);
        };
        let hand = &mut hands[usize::from(from) - 1];
        let mut moved = 0;
        let mut steps = self.table.clusters();
        while moved < wanted && steps > 0 {
            let cluster = ClusterNo(*hand % self.table.clusters());
            let (passed, count) = self.demote_cluster(cluster, u64::MAX, from, None, scratch)?;
            *hand = (cluster.0 + passed) % self.table.clusters();
            steps = steps.saturating_sub(passed);
            match count {
                Some(count) => moved += count,
                None => break,
            }
        }
        Ok(moved)
    }

    /// Moves pages in `mask` of `cluster` that tier `from` holds to tier `only`, or to any below `from`;
    /// returns how many.
    pub(super) fn move_between(
        &self,
        cluster: ClusterNo,
        mask: u64,
        from: u8,
        only: Option<u8>,
    ) -> Result<usize, FaultError> {
        let mut inner = self
            .demotion
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(scratch) = scratch_or_new(&mut inner.scratch) else {
            return Ok(0);
        };
        loop {
            match self.demote_cluster(cluster, mask, from, only, scratch)? {
                // The block has been split: its pages are next.
                (0, _) => {}
                (_, count) => return Ok(count.unwrap_or(0)),
            }
        }
    }

    /// Returns how many clusters were dealt with and how many pages moved; `None` if there is no room.
    fn demote_cluster(
        &self,
        cluster: ClusterNo,
        mask: u64,
        from: u8,
        only: Option<u8>,
        scratch: &mut Scratch,
    ) -> Result<(u64, Option<usize>), FaultError> {
        // A page that takes no room leaves only if it is wanted elsewhere.
        let worth = |frame| only.is_some() || self.tier(from).takes_room(frame);
        let here = |entry: Entry| matches!(entry.state(), State::Held(place) if place.hnode == from && worth(place.frame));
        if let ClusterView::Whole(entry) = self.table.view(cluster) {
            let passed = BLOCK_CLUSTERS as u64 - cluster.0 % BLOCK_CLUSTERS as u64;
            if !here(entry) {
                return Ok((passed, Some(0)));
            }
            return match self.table.try_lock_block(cluster.block()) {
                Some(block) if here(block.entry()) && self.unit == Unit::Page => {
                    block.split();
                    Ok((0, Some(0)))
                }
                Some(block) if here(block.entry()) => {
                    Ok((passed, self.demote_block(block, from, only, scratch)?))
                }
                _ => Ok((passed, Some(0))),
            };
        }
        let mut moved = 0;
        let _turning = self.turning.begin();
        for start in (0..64).step_by(AT_ONCE) {
            let part = mask & crate::page::bits(start, AT_ONCE);
            let Some(mut pages) = self
                .table
                .try_lock_pages(cluster, part, |_, entry| here(entry))
            else {
                continue;
            };
            while let Some((at, count)) = runs(pages.mask()).next() {
                let mut sources = [Frame(0); AT_ONCE];
                let bytes = scratch.bytes_mut(count);
                for (i, source) in sources[..count].iter_mut().enumerate() {
                    if let State::Held(place) = pages.entry(at + i).state() {
                        *source = place.frame;
                    }
                }
                let tier = self.tier(from);
                tier.load_pages(&sources[..count], bytes)
                    .map_err(|source| FaultError::Load {
                        page: cluster.page(at),
                        tier: tier.name().to_owned(),
                        source,
                    })?;
                let mut entries = [Entry::new(State::Untouched, Flags::NONE); AT_ONCE];
                let stored = self.store_below(bytes, from, only, &mut entries);
                for i in 0..stored {
                    let flags = pages.entry(at + i).flags();
                    pages.commit(at + i, entries[i].with_flags(flags));
                    tier.free(sources[i], Unit::Page);
                    self.stats
                        .moved(Site::Tier(from), Self::site(entries[i].state()), 1);
                }
                moved += stored;
                if stored < count {
                    return Ok((1, (moved > 0).then_some(moved)));
                }
            }
        }
        Ok((1, Some(moved)))
    }

    fn demote_block(
        &self,
        block: Block<'_>,
        from: u8,
        only: Option<u8>,
        scratch: &mut Scratch,
    ) -> Result<Option<usize>, FaultError> {
        let entry = block.entry();
        let State::Held(place) = entry.state() else {
            return Ok(Some(0));
        };
        let bytes = scratch.bytes_mut(BLOCK_PAGES);
        self.load(block.start(), place, bytes)?;
        let targets = self.targets(from, only);
        if let Some(place) = targets
            .iter()
            .find_map(|only| self.store_block(bytes, Some(*only)))
        {
            block.commit(Entry::new(State::Held(place), entry.flags()));
            self.stats
                .moved(Site::Tier(from), Site::Tier(place.hnode), BLOCK_PAGES);
        } else if let Some(entries) = targets
            .iter()
            .find_map(|only| self.store_scattered(bytes, Some(*only)))
        {
            for entry in &entries {
                self.stats
                    .moved(Site::Tier(from), Self::site(entry.state()), 1);
            }
            block.split_into(|index| entries[index]);
        } else {
            return Ok(None);
        }
        self.tier(from).free(place.frame, Unit::Block);
        Ok(Some(BLOCK_PAGES))
    }

    fn store_below(
        &self,
        bytes: &[u8],
        from: u8,
        only: Option<u8>,
        entries: &mut [Entry],
    ) -> usize {
        let mut done = 0;
        for target in self.targets(from, only) {
            done += self.store_pages(
                &bytes[done * PAGE_SIZE..],
                Some(target),
                &mut entries[done..],
            );
            if done * PAGE_SIZE == bytes.len() {
                break;
            }
        }
        done
    }

    /// The tiers that pages of tier `from` may move to.
    fn targets(&self, from: u8, only: Option<u8>) -> Vec<u8> {
        match only {
            Some(only) => vec![only],
            None if self.tier(from).is_going() => (1..=self.tiers.len() as u8)
                .filter(|it| *it != from)
                .collect(),
            None => (from + 1..=self.tiers.len() as u8).collect(),
        }
    }
}

fn scratch_or_new(scratch: &mut Option<Scratch>) -> Option<&mut Scratch> {
    if scratch.is_none() {
        *scratch = Scratch::new().ok();
    }
    scratch.as_mut()
}
