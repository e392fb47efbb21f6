//! The verb, for those who name pages and a place: hints, drains, tests.

use super::fault::bit;
use super::{Engine, FaultError, Outcome};
use crate::page::{BLOCK_PAGES, ClusterNo, PageNo, PageRange};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::{ClusterView, Entry, Flags, Guard, State};

/// Where pages are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Beneath the guest.
    Guest,
    /// In the arena, out of the guest's reach.
    Staged,
    /// In this tier, from 1 on.
    Tier(u8),
}

/// What a migration did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Pages that moved. Zero pages that were dropped instead of stored count.
    pub moved: u64,
    /// Pages that stayed: there already, untouched, locked by another migration, or pinned.
    pub stayed: u64,
}

/// Why a migration stopped. Every page is where it was or where it was wanted.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The destination has no room for more.
    #[error("no room after {0} pages")]
    Full(u64),
    /// There is no such tier.
    #[error("there is no tier {found}: this engine has {tiers}")]
    NoTier {
        /// The tier that was named.
        found: u8,
        /// How many there are.
        tiers: usize,
    },
    /// The microVM cannot go on.
    #[error(transparent)]
    Failed(#[from] FaultError),
}

impl Engine {
    /// Moves the pages of `range` to `to`. A block that is whole moves whole if `range` holds its first
    /// page. Never waits for a page that another migration holds.
    pub fn migrate(&self, range: PageRange, to: Destination) -> Result<Migrated, MigrateError> {
        if let Some(page) = range.iter().find(|page| !self.is_ram(*page)) {
            return Err(FaultError::NotRam { page }.into());
        }
        if let Destination::Tier(found) = to
            && (found == 0 || usize::from(found) > self.tiers.len())
        {
            return Err(MigrateError::NoTier {
                found,
                tiers: self.tiers.len(),
            });
        }
        let _passing = self.gate.pass();
        let mut done = Migrated::default();
        let mut page = range.start;
        while page < range.end() {
            let cluster = ClusterNo::of(page);
            let first = ClusterNo::index(page);
            let length = (64 - first).min((range.end().0 - page.0) as usize);
            let mask = crate::page::bits(first, length);
            let moved = match to {
                Destination::Guest => self.bring_all(cluster, mask, done.moved)?,
                Destination::Staged => self.expel(self.group(cluster, mask, page))? as u64,
                Destination::Tier(tier) => {
                    self.move_to_tier(cluster, mask, page, tier, done.moved)?
                }
            };
            done.moved += moved;
            page = page.add(length as u64);
        }
        done.stayed = range.pages.saturating_sub(done.moved);
        Ok(done)
    }

    /// The group that `mask` of `cluster` stands for: the block, at its first page, if it is whole.
    fn group(&self, cluster: ClusterNo, mask: u64, page: PageNo) -> Victims {
        match self.table.view(cluster) {
            ClusterView::Whole(_) if page == page.block_start() => Victims::Block(page.block()),
            _ => Victims::Pages { cluster, mask },
        }
    }

    fn bring_all(&self, cluster: ClusterNo, mask: u64, before: u64) -> Result<u64, MigrateError> {
        let mut moved = 0;
        for page in cluster.pages(mask) {
            if self.table.peek(page).state() == State::Mapped {
                continue;
            }
            let outcome = self.bring(page, bit(page))?;
            self.wake(page, bit(page), outcome);
            match outcome {
                Outcome::Resolved { along } => moved += 1 + along as u64,
                Outcome::There => {}
                Outcome::Waiting => return Err(MigrateError::Full(before + moved)),
            }
        }
        Ok(moved)
    }

    fn move_to_tier(
        &self,
        cluster: ClusterNo,
        mask: u64,
        page: PageNo,
        tier: u8,
        before: u64,
    ) -> Result<u64, MigrateError> {
        let (_, result) = self.take_out(self.group(cluster, mask, page));
        // Passed on first: what was taken out is in no queue yet.
        let passed = self.pass_on(self.group(cluster, mask, page), Some(tier))?;
        result?;
        if passed.refused {
            return Err(MigrateError::Full(before + passed.freed as u64));
        }
        let mut moved = passed.freed as u64;
        for from in (1..=self.tiers.len() as u8).filter(|from| *from != tier) {
            let holds = |page| Self::site(self.table.peek(page).state()) == Site::Tier(from);
            let pages = cluster.pages(mask);
            let held = pages.clone().filter(|page| holds(*page)).count();
            if held > 0 {
                let count = self.move_between(cluster, mask, from, Some(tier))?;
                moved += count as u64;
                if pages.clone().any(holds) && count < held.min(BLOCK_PAGES) {
                    return Err(MigrateError::Full(before + moved));
                }
            }
        }
        Ok(moved)
    }

    /// Marks pages so that eviction passes them by, or takes the mark away. A pinned page that is not
    /// beneath the guest stays where it is until it is touched.
    pub fn set_pinned(&self, range: PageRange, pinned: bool) -> Result<(), MigrateError> {
        let _passing = self.gate.pass();
        for page in range.iter().filter(|page| self.is_ram(*page)) {
            let mut pages = loop {
                match self.table.lock(page) {
                    Guard::Pages(pages) => break pages,
                    // A staged block lies in one frame of 2 MiB: it cannot be split there.
                    Guard::Block(block) if Self::site(block.entry().state()) == Site::Staged => {
                        self.bring_block(block)?;
                    }
                    Guard::Block(block) => self.split(block),
                }
            };
            let index = ClusterNo::index(page);
            let entry = pages.entry(index);
            let pin = if pinned { Flags::PINNED } else { Flags::NONE };
            pages.commit(
                index,
                entry.with_flags(entry.flags().without(Flags::PINNED).with(pin)),
            );
        }
        Ok(())
    }

    /// Marks pages that hold something so that eviction passes them by once; a touch takes the mark away.
    pub fn set_will_need(&self, range: PageRange) {
        let _passing = self.gate.pass();
        for page in range.iter().filter(|page| self.is_ram(*page)) {
            let marked = |entry: Entry| match entry.state() {
                State::Untouched => entry,
                _ => entry.with_flags(entry.flags().with(Flags::WILL_NEED)),
            };
            match self.table.lock(page) {
                Guard::Pages(mut pages) => {
                    let index = ClusterNo::index(page);
                    pages.commit(index, marked(pages.entry(index)));
                }
                Guard::Block(block) => {
                    let entry = marked(block.entry());
                    block.commit(entry);
                }
            }
        }
    }
}
