//! Out of an accelerator's memory: copies are dropped, its own pages go into host RAM, staged, to be passed on like
//! others.

use super::place::indices;
use super::{Attached, DeviceError, Near};
use crate::engine::fault::bit;
use crate::engine::reclaim::NoRoom;
use crate::engine::{Engine, FaultError, Outcome};
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, Unit, bits, runs};
use crate::policy::Victims;
use crate::stats::Site;
use crate::table::{ClusterView, Entry, Flags, Frame, Pages, Place, State};
use std::sync::atomic::Ordering;

/// What left an accelerator's memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// How many pages.
    pub(super) pages: usize,
    /// Host and tiers have no room for more.
    full: bool,
}

impl Engine {
    /// Makes room for `pages` in the accelerator's memory.
    pub(super) fn make_room_in(
        &self,
        hnode: u8,
        attached: &Attached,
        pages: usize,
    ) -> Result<Near, DeviceError> {
        // What is clean makes way first: it is only dropped.
        if self.drop_copies(hnode, attached, pages as u64, false) > 0 {
            return Ok(Near::Closer);
        }
        let sent = self.send_away(hnode, attached, pages, false)?;
        match sent {
            Sent { pages: 1.., .. } => Ok(Near::Closer),
            // Locked, pinned, in other address spaces; or taken away by somebody else, who made room by that.
            Sent { full: false, .. } => Ok(Near::NoRoom),
            Sent { full: true, .. } => Err(DeviceError::full(&*attached.device, pages)),
        }
    }

    /// Puts some of what has been staged longest back beneath the guest, where no tier takes it: pages that leave an accelerator
    /// are staged, and the arena has fewer slots than the guest has pages. False if there was nothing to put back.
    pub(super) fn unstage(&self) -> Result<bool, FaultError> {
        let _passing = self.gate.pass();
        let mut back = 0;
        // Some are stale.
        for _ in 0..self.staged.groups() {
            let Some(group) = self.staged.pop() else {
                break;
            };
            let Victims::Pages { cluster, mask } = group else {
                self.staged.push(group);
                continue;
            };
            for page in cluster.pages(mask) {
                if Self::site(self.table.peek(page).state()) == Site::Staged {
                    let outcome = self.bring(page, bit(page))?;
                    back += usize::from(matches!(outcome, Outcome::Resolved { .. }));
                    self.wake(page, bit(page), outcome);
                }
            }
            if back >= CLUSTER_PAGES {
                break;
            }
        }
        Ok(back > 0)
    }

    /// Drops copies of up to `pages` pages, or a few more, that accelerator `hnode` has.
    pub fn shed_copies(&self, hnode: u8, pages: u64) {
        if pages > 0
            && let Ok(attached) = self.attached(hnode)
        {
            let _passing = self.gate.pass();
            self.drop_copies(hnode, &attached, pages, false);
        }
    }

    /// Drops copies of at least `wanted` pages, if there are as many, in the order of the hand; returns how many.
    pub(super) fn drop_copies(
        &self,
        hnode: u8,
        attached: &Attached,
        wanted: u64,
        also_pinned: bool,
    ) -> u64 {
        let (clusters, granule) = (self.table.clusters(), attached.device.granule());
        let ledger = &attached.ledger;
        let mut dropped = 0;
        // Two rounds: the first may only take marks away.
        for _ in 0..=2 * clusters {
            if dropped >= wanted || ledger.copies() == 0 {
                break;
            }
            let hand = PageNo(ledger.copies_hand.load(Ordering::Relaxed));
            let cluster = ClusterNo(ClusterNo::of(hand).0 % clusters);
            let mut next = ClusterNo(cluster.0 + 1).page(0);
            let copied = self.sharing.copied(cluster);
            let mine = |index, entry: Entry| {
                self.sharing.copy(cluster.page(index), hnode).is_some()
                    && (also_pinned || !entry.flags().has(Flags::PINNED))
            };
            let ahead = !0 << ClusterNo::index(hand);
            if copied & ahead != 0
                && let Some(mut pages) = self.table.try_lock_pages(cluster, copied & ahead, mine)
            {
                for start in (0..CLUSTER_PAGES).step_by(granule) {
                    let part = pages.mask() & bits(start, granule);
                    // What is left of a granule that has lost a page is of no use.
                    let whole = part.count_ones() as usize == granule;
                    if part == 0 || (whole && !also_pinned && pardon(&mut pages, part)) {
                        continue;
                    }
                    dropped += self.end_copies(cluster, part, hnode, attached) as u64;
                    if dropped >= wanted {
                        next = cluster.page(start).add(granule as u64);
                        break;
                    }
                }
            }
            ledger.copies_hand.store(next.0, Ordering::Relaxed);
        }
        ledger.dropped.add(dropped);
        dropped
    }

    /// Sends at least `wanted` pages of an accelerator's memory to host RAM, in the order of the hand, cluster by cluster.
    pub(super) fn send_away(
        &self,
        hnode: u8,
        attached: &Attached,
        wanted: usize,
        also_pinned: bool,
    ) -> Result<Sent, DeviceError> {
        let clusters = self.table.clusters();
        let mut sent = Sent::default();
        for _ in 0..clusters {
            let cluster =
                ClusterNo(attached.ledger.hand.fetch_add(1, Ordering::Relaxed) % clusters);
            if !matches!(self.table.view(cluster), ClusterView::Pages(_)) {
                continue;
            }
            let here = |_, entry: Entry| {
                matches!(entry.state(), State::Held(place) if place.hnode == hnode)
                    && (also_pinned || !entry.flags().has(Flags::PINNED))
            };
            if let Some(pages) = self.table.try_lock_pages(cluster, u64::MAX, here) {
                match self.send_cluster_away(pages, hnode) {
                    Ok(count) => sent.pages += count,
                    Err(NoRoom::Full) => {
                        sent.full = true;
                        break;
                    }
                    Err(NoRoom::Failed(error)) => return Err(error.into()),
                }
            }
            if sent.pages >= wanted {
                break;
            }
        }
        Ok(sent)
    }

    fn send_cluster_away(&self, mut pages: Pages<'_>, hnode: u8) -> Result<usize, NoRoom> {
        let mut sent = 0;
        while let Some((at, length)) = runs(pages.mask()).next() {
            let count = self.stage_run(&mut pages, at, length, hnode)?;
            pages.release(bits(at, count));
            sent += count;
        }
        Ok(sent)
    }

    /// Stages pages from index `at` on that accelerator `hnode` holds, at most `most`; they stay locked. Returns how
    /// many.
    pub(super) fn stage_run(
        &self,
        pages: &mut Pages<'_>,
        at: usize,
        most: usize,
        hnode: u8,
    ) -> Result<usize, NoRoom> {
        let cluster = pages.cluster();
        let device = self.tier(hnode);
        let _turning = self.turning.begin();
        let mut frames = loop {
            match self.arena.take(most) {
                Some(frames) => break frames,
                None => self.make_room_for_page()?,
            }
        };
        let count = frames.pages();
        self.withdraw(hnode, cluster.page(at), count);
        let mut sources = [Frame(0); CLUSTER_PAGES];
        for (i, source) in sources[..count].iter_mut().enumerate() {
            if let State::Held(place) = pages.entry(at + i).state() {
                *source = place.frame;
            }
        }
        device
            .load_pages(&sources[..count], frames.bytes_mut())
            .map_err(|source| FaultError::Load {
                page: cluster.page(at),
                tier: device.name().to_owned(),
                source,
            })?;
        self.sent_out(hnode, count);
        let slot = frames.keep();
        self.staged.more(count);
        for (i, source) in sources[..count].iter().enumerate() {
            let flags = pages.entry(at + i).flags();
            pages.revise(
                at + i,
                Entry::held(Place::RAM, Frame(slot.0 + i as u64), flags),
            );
            device.free(*source, Unit::Page);
        }
        self.staged.push(Victims::Pages {
            cluster,
            mask: bits(at, count),
        });
        self.stats.moved(Site::Tier(hnode), Site::Staged, count);
        Ok(count)
    }

    /// Counts pages whose bytes hnode `hnode` sent over its link, if it is an accelerator.
    pub(in crate::engine) fn sent_out(&self, hnode: u8, pages: usize) {
        if usize::from(hnode) > self.tiers.len()
            && let Ok(attached) = self.attached(hnode)
        {
            attached.ledger.migrated_out.add_pages(pages);
        }
    }
}

/// Takes the mark of pages that are said to be needed away; false if none has it.
fn pardon(pages: &mut Pages<'_>, mask: u64) -> bool {
    let marked = |index: &usize| pages.entry(*index).flags().has(Flags::WILL_NEED);
    if !indices(mask).any(|index| marked(&index)) {
        return false;
    }
    for index in indices(mask) {
        let entry = pages.entry(index);
        pages.commit(
            index,
            entry.with_flags(entry.flags().without(Flags::WILL_NEED)),
        );
    }
    true
}
