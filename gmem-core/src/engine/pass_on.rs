//! Staged pages are passed on to the first tier that has room.

use super::reclaim::NoRoom;
use super::{Engine, FaultError};
use crate::hnode::zip::fill::is_zero;
use crate::hnode::{Hnode, StoreError};
use crate::page::{CLUSTER_PAGES, ClusterNo, PAGE_SIZE, Unit, bits, runs};
use crate::policy::Victims;
use crate::stats::{Site, Stats};
use crate::table::{Entry, Flags, Frame, Pages, Place, State};

/// Pages that are locked at once while they are copied or compressed: a touch of one of them waits.
pub(super) const AT_ONCE: usize = 8;

/// Groups in a row that find no room before all are said to find none.
const REFUSALS: usize = 8;

/// What became of a group that was to be passed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PassedOn {
    /// Pages that left the arena.
    pub(super) freed: usize,
    /// Some of it found no room.
    pub(super) refused: bool,
}

impl Engine {
    /// Passes the oldest staged group on; returns how many frames became free. `Full` if no tier takes
    /// any of the oldest groups; they then stay staged.
    pub(super) fn pass_on_oldest(&self) -> Result<usize, NoRoom> {
        let mut refusals = 0;
        for _ in 0..self.staged.groups() {
            let Some(group) = self.staged.pop() else {
                break;
            };
            let passed = self.pass_on(group, None)?;
            if passed.freed > 0 {
                return Ok(passed.freed);
            }
            refusals += usize::from(passed.refused);
            if refusals == REFUSALS {
                break;
            }
        }
        if refusals > 0 {
            Err(NoRoom::Full)
        } else {
            Ok(0)
        }
    }

    /// Passes a group on, to tier `only` if one is given. What finds no room, or is locked by somebody at
    /// this moment, waits for another turn.
    pub(super) fn pass_on(&self, group: Victims, only: Option<u8>) -> Result<PassedOn, FaultError> {
        let _turning = self.turning.begin();
        match group {
            Victims::Block(number) => self.pass_on_block(number, only),
            Victims::Pages { cluster, mask } => {
                let (freed, refused, locked) = self.pass_on_pages(cluster, mask, only);
                if refused | locked != 0 {
                    self.staged.push(Victims::Pages {
                        cluster,
                        mask: refused | locked,
                    });
                }
                Ok(PassedOn {
                    freed,
                    refused: refused != 0,
                })
            }
        }
    }

    /// As `pass_on`, for pages: how many left, and the masks of those that found no room, and of those that
    /// somebody has locked: who may bring them back, or let go of them where they are.
    fn pass_on_pages(&self, cluster: ClusterNo, mask: u64, only: Option<u8>) -> (usize, u64, u64) {
        let staged = |entry: Entry| Self::site(entry.state()) == Site::Staged;
        let (mut freed, mut refused, mut locked) = (0, 0, 0);
        for (first, length) in runs(mask) {
            for start in (first..first + length).step_by(AT_ONCE) {
                let part = bits(start, AT_ONCE.min(first + length - start));
                let pages = self
                    .table
                    .try_lock_pages(cluster, part, |_, entry| staged(entry));
                let held = pages.as_ref().map_or(0, Pages::mask);
                for index in (0..CLUSTER_PAGES).filter(|index| part & !held & 1 << index != 0) {
                    if staged(self.table.peek(cluster.page(index))) {
                        locked |= 1 << index;
                    }
                }
                let Some(mut pages) = pages else { continue };
                while pages.mask() != 0 {
                    let stored = self.store_first_run(&mut pages, only);
                    if stored == 0 {
                        // One that does not compress must not keep out those behind it that do.
                        let first = pages.mask() & pages.mask().wrapping_neg();
                        refused |= first;
                        pages.release(first);
                    }
                    freed += stored;
                }
            }
        }
        (freed, refused, locked)
    }

    /// Stores the first held pages that lie in consecutive slots; returns how many were stored.
    fn store_first_run(&self, pages: &mut Pages<'_>, only: Option<u8>) -> usize {
        let (at, length) = runs(pages.mask()).next().unwrap_or_default();
        let State::Held(Place { frame, .. }) = pages.entry(at).state() else {
            return 0;
        };
        let in_slot = |i: &usize| {
            let next = Place {
                hnode: Place::RAM,
                frame: Frame(frame.0 + *i as u64),
            };
            pages.entry(at + i).state() == State::Held(next)
        };
        let count = (0..length).take_while(in_slot).count();
        let mut frames = self.arena.kept(frame, count, Unit::Page);
        let mut entries = [Entry::new(State::Untouched, Flags::NONE); CLUSTER_PAGES];
        let stored = self.store_pages(frames.bytes_mut(), only, &mut entries);
        for (i, entry) in entries[..stored].iter().enumerate() {
            let flags = pages.entry(at + i).flags();
            pages.commit(at + i, entry.with_flags(flags));
            self.stats.moved(Site::Host, Self::site(entry.state()), 1);
        }
        self.staged.less(stored);
        if let (_, Some(rest)) = frames.split_at(stored) {
            rest.keep();
        }
        stored
    }

    /// Stores consecutive pages, each in the first tier that has room; zero pages take none. Returns how
    /// many were stored, from the first on, and where in `entries`.
    pub(super) fn store_pages(
        &self,
        bytes: &[u8],
        only: Option<u8>,
        entries: &mut [Entry],
    ) -> usize {
        let total = bytes.len() / PAGE_SIZE;
        let page = |i: usize| &bytes[i * PAGE_SIZE..(i + 1) * PAGE_SIZE];
        let mut done = 0;
        while done < total {
            if is_zero(page(done)) {
                entries[done] = Entry::new(State::Untouched, Flags::NONE);
                done += 1;
                continue;
            }
            let end = (done + 1..total)
                .find(|i| is_zero(page(*i)))
                .unwrap_or(total);
            let before = done;
            for (hnode, tier) in self.candidates(only) {
                let start = done;
                let result = tier.store_pages(
                    &bytes[start * PAGE_SIZE..end * PAGE_SIZE],
                    &mut |i, frame| {
                        entries[start + i] = Entry::held(hnode, frame, Flags::NONE);
                        done = start + i + 1;
                    },
                );
                if let Err(error) = result {
                    self.note(&error);
                }
                if done == end {
                    break;
                }
            }
            if done == before || done < end {
                break;
            }
        }
        done
    }

    /// The tiers that may be stored into, with their hnode numbers, nearest first.
    pub(super) fn candidates(&self, only: Option<u8>) -> impl Iterator<Item = (u8, &dyn Hnode)> {
        let numbered = self
            .tiers
            .iter()
            .enumerate()
            .map(|(at, tier)| (at as u8 + 1, &**tier));
        numbered.filter(move |(hnode, _)| only.is_none_or(|only| *hnode == only))
    }

    /// How many pages the tiers certainly take.
    pub(super) fn free_below(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.free_pages()).sum()
    }

    /// Counts a failed write.
    pub(super) fn note(&self, error: &StoreError) {
        if matches!(error, StoreError::Io(_)) {
            Stats::one(&self.stats.store_errors);
        }
    }
}
