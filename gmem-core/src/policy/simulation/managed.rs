//! An engine's policy, on a page table as the engine keeps it.
//!
//! What is here and what is staged together fill the capacity. A page that is touched while it is staged comes back
//! without a miss: that costs a move, is counted apart, and is what the policy learns from where uses are not seen.

use super::Replacement;
use crate::page::{ClusterNo, PageNo};
use crate::policy::{Eviction, Victims};
use crate::table::{Entry, Flags, Frame, Guard, LogicalPageTable, Place, State};
use std::collections::VecDeque;

/// Which uses of pages beneath the guest the policy sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All, as a processor's accessed bits would show them. Nothing more is staged than leaves together.
    All,
    /// None: only faults, and touches of what is staged, a sixteenth of the capacity.
    Faults,
    /// As with `Faults`, and all uses of one in so many pages.
    Sampled(u32),
}

/// A memory that an [`Eviction`] manages.
pub struct Managed<'e> {
    eviction: &'e dyn Eviction,
    table: LogicalPageTable,
    seen: Seen,
    capacity: usize,
    resident: usize,
    /// In the order in which they left; stale where the number is not that of the page's latest leaving.
    staged: VecDeque<(u32, u32)>,
    /// Of them, those that are not stale.
    waiting: usize,
    left: Vec<u32>,
    rescues: u64,
}

impl<'e> Managed<'e> {
    /// For pages below `pages`, with room for `capacity` of them.
    pub fn new(eviction: &'e dyn Eviction, pages: u32, capacity: usize, seen: Seen) -> Self {
        let table = LogicalPageTable::new(PageNo(pages.into()));
        for block in 0..table.blocks() {
            if let Some(block) = table.try_lock_block(block) {
                block.split();
            }
        }
        Self {
            eviction,
            table,
            seen,
            capacity,
            resident: 0,
            staged: VecDeque::new(),
            waiting: 0,
            left: vec![0; pages as usize],
            rescues: 0,
        }
    }

    /// How many pages came back while they were staged.
    pub fn rescues(&self) -> u64 {
        self.rescues
    }

    fn commit(&self, page: u32, change: impl FnOnce(Entry) -> Entry) {
        if let Guard::Pages(mut pages) = self.table.lock(PageNo(page.into())) {
            let index = ClusterNo::index(PageNo(page.into()));
            pages.commit(index, change(pages.entry(index)));
        }
    }

    fn enter(&self, page: u32) {
        self.commit(page, |entry| {
            Entry::new(
                State::Mapped,
                self.eviction.arrives(PageNo(page.into()), entry, true),
            )
        });
    }

    fn is_visible(&self, page: u32) -> bool {
        match self.seen {
            Seen::All => true,
            Seen::Faults => false,
            Seen::Sampled(part) => (page.wrapping_mul(0x9e37_79b1) >> 16).is_multiple_of(part),
        }
    }

    fn make_room(&mut self) {
        let window = match self.seen {
            Seen::All => 0,
            Seen::Faults | Seen::Sampled(_) => self.capacity / 16,
        };
        while self.resident >= self.capacity {
            while self.waiting <= window && self.stage() {}
            let Some((page, number)) = self.staged.pop_front() else {
                return;
            };
            if self.left[page as usize] == number {
                self.left[page as usize] = 0;
                self.resident -= 1;
                self.waiting -= 1;
                self.commit(page, |entry| Entry::held(1, Frame(0), entry.flags()));
            }
        }
    }

    /// Takes the next victims out of reach; whether there were any.
    fn stage(&mut self) -> bool {
        let Some(Victims::Pages { cluster, mask }) = self.eviction.victims(&self.table) else {
            return false;
        };
        for page in cluster.pages(mask) {
            let page = page.0 as u32;
            self.commit(page, |entry| {
                Entry::held(Place::RAM, Frame(0), entry.flags())
            });
            // Numbers come again only after the queue has long forgotten them.
            let number = self.staged.back().map_or(0, |(_, last)| last % u32::MAX) + 1;
            self.staged.push_back((page, number));
            self.left[page as usize] = number;
            self.waiting += 1;
        }
        true
    }
}

impl Replacement for Managed<'_> {
    fn touch(&mut self, page: u32) -> bool {
        let entry = self.table.peek(PageNo(page.into()));
        match entry.state() {
            State::Mapped => {
                if self.is_visible(page) && !entry.flags().has(Flags::ACCESSED) {
                    self.commit(page, |entry| {
                        entry.with_flags(entry.flags().with(Flags::ACCESSED))
                    });
                }
                true
            }
            State::Held(Place {
                hnode: Place::RAM, ..
            }) => {
                self.rescues += 1;
                self.waiting -= 1;
                self.left[page as usize] = 0;
                self.enter(page);
                true
            }
            _ => {
                self.make_room();
                self.resident += 1;
                self.enter(page);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    /// Takes the lowest page that was not touched since it came, else the lowest.
    struct Lowest;

    impl Eviction for Lowest {
        fn victims(&self, table: &LogicalPageTable) -> Option<Victims> {
            let cluster = ClusterNo(0);
            let entry = |index: &usize| table.peek(cluster.page(*index));
            let mapped = |index: &usize| entry(index).state() == State::Mapped;
            let used = |index: &usize| entry(index).flags().has(Flags::ACCESSED);
            let index = (0..64)
                .filter(mapped)
                .min_by_key(|index| (used(index), *index))?;
            Some(Victims::Pages {
                cluster,
                mask: 1 << index,
            })
        }

        fn arrives(&self, _: PageNo, _: Entry, _: bool) -> Flags {
            Flags::NONE
        }
    }

    #[test]
    fn a_page_that_is_touched_while_staged_is_no_miss() {
        let mut managed = Managed::new(&Lowest, 64, 16, Seen::Faults);
        for page in 0..17 {
            assert!(!managed.touch(page));
        }
        // One page is kept staged, and for 16 to come 0 went and 1 is on its way.
        assert_eq!(course(&mut managed, &[1, 0]), "hm");
        assert_eq!(managed.rescues(), 1);
    }

    #[test]
    fn what_is_seen_to_be_used_is_marked() {
        for (seen, course_of) in [(Seen::All, "hmh"), (Seen::Sampled(1), "hmh")] {
            let mut managed = Managed::new(&Lowest, 64, 2, seen);
            managed.touch(3);
            managed.touch(5);
            // 3 is used, so 5 makes way for 7.
            assert_eq!(course(&mut managed, &[3, 7, 3]), course_of);
        }
    }
}
