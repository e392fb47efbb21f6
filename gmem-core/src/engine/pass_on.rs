//! Staged pages are passed on to the first tier that has room.

use super::Engine;
use super::reclaim::NoRoom;
use crate::hnode::zip::fill::is_zero;
use crate::hnode::{Hnode, StoreError};
use crate::page::{CLUSTER_PAGES, ClusterNo, PAGE_SIZE, Unit, bits, runs};
use crate::policy::Victims;
use crate::stats::{Site, Stats};
use crate::table::{Entry, Flags, Frame, Pages, Place, State};

/// Pages that are locked at once while they are copied or compressed: a touch of one of them waits.
pub(super) const AT_ONCE: usize = 8;

impl Engine {
    /// Passes the oldest staged group on; returns how many frames became free. `Full` if no tier takes
    /// any of it; it then stays staged.
    pub(super) fn pass_on_oldest(&self) -> Result<usize, NoRoom> {
        while let Some(group) = self.staged.pop() {
            match self.pass_on(group, None) {
                Ok(0) => {}
                other => return other,
            }
        }
        Ok(0)
    }

    /// Passes a group on, to tier `only` if one is given. What finds no room is put back.
    pub(super) fn pass_on(&self, group: Victims, only: Option<u8>) -> Result<usize, NoRoom> {
        let (freed, left) = match group {
            Victims::Block(number) => match self.pass_on_block(number, only) {
                Ok(freed) => (freed, None),
                Err(NoRoom::Full) => (0, Some(group)),
                Err(error) => return Err(error),
            },
            Victims::Pages { cluster, mask } => {
                let (freed, left) = self.pass_on_pages(cluster, mask, only);
                (
                    freed,
                    (left != 0).then_some(Victims::Pages {
                        cluster,
                        mask: left,
                    }),
                )
            }
        };
        let full = left.is_some();
        if let Some(left) = left {
            self.staged.put_back(left);
        }
        if full && freed == 0 {
            Err(NoRoom::Full)
        } else {
            Ok(freed)
        }
    }

    /// As `pass_on`, for pages: how many left, and the mask of those that found no room.
    fn pass_on_pages(&self, cluster: ClusterNo, mask: u64, only: Option<u8>) -> (usize, u64) {
        let mut freed = 0;
        for (first, length) in runs(mask) {
            for start in (first..first + length).step_by(AT_ONCE) {
                let part = bits(start, AT_ONCE.min(first + length - start));
                let staged = |_, entry: Entry| Self::site(entry.state()) == Site::Staged;
                // Whoever holds the lock of one brings it back.
                let Some(mut pages) = self.table.try_lock_pages(cluster, part, staged) else {
                    continue;
                };
                while pages.mask() != 0 {
                    match self.store_first_run(&mut pages, only) {
                        0 => return (freed, mask & !bits(0, start) | pages.mask()),
                        count => freed += count,
                    }
                }
            }
        }
        (freed, 0)
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

    /// Counts a failed write.
    pub(super) fn note(&self, error: &StoreError) {
        if matches!(error, StoreError::Io(_)) {
            Stats::one(&self.stats.store_errors);
        }
    }
}
