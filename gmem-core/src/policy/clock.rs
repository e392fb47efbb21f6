//! CLOCK over guest frames.
//!
//! The hand goes round the logical page table. A mapped page that is marked as accessed loses the mark
//! and stays; one without it is a victim. The mark is set when a page comes in because it was touched,
//! so pages that merely came along leave first, and again when an evicted page is touched before it has
//! left the arena: the only use of a mapped page that can be seen without asking the MMU. The order is
//! by address, not by arrival, so nothing has to be kept for each page.
//!
//! F. J. Corbató, "A Paging Experiment with the Multics System", 1968.

use super::marks::{RECENT, is_recent, may_leave, pardon_block};
use super::{Eviction, Victims};
use crate::page::{BLOCK_CLUSTERS, ClusterNo};
use crate::table::{ClusterView, LogicalPageTable};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// CLOCK.
#[derive(Debug, Default)]
pub struct Clock {
    hand: Mutex<u64>,
    turns: AtomicU64,
}

impl Eviction for Clock {
    fn victims(&self, table: &LogicalPageTable) -> Option<Victims> {
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        // Two rounds: the first may only take marks away.
        let end = *hand + 2 * table.clusters() + BLOCK_CLUSTERS as u64;
        while *hand < end {
            let cluster = ClusterNo(*hand % table.clusters());
            match table.view(cluster) {
                ClusterView::Whole(entry) => {
                    *hand = (*hand / BLOCK_CLUSTERS as u64 + 1) * BLOCK_CLUSTERS as u64;
                    if may_leave(entry) && !pardon_block(table, cluster.block(), entry) {
                        self.turn(&mut hand, table);
                        return Some(Victims::Block(cluster.block()));
                    }
                }
                ClusterView::Pages(words) => {
                    *hand += 1;
                    let (mut marked, mut mask) = (0, 0);
                    for (index, word) in words.iter().enumerate() {
                        let entry = word.peek();
                        if may_leave(entry) {
                            let set = if is_recent(entry) {
                                &mut marked
                            } else {
                                &mut mask
                            };
                            *set |= 1 << index;
                        }
                    }
                    pardon(table, cluster, marked);
                    if mask != 0 {
                        self.turn(&mut hand, table);
                        return Some(Victims::Pages { cluster, mask });
                    }
                }
            }
        }
        self.turn(&mut hand, table);
        None
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Clock {
    /// Keeps the hand within the table.
    fn turn(&self, hand: &mut u64, table: &LogicalPageTable) {
        let round = table.clusters().max(1);
        self.turns.fetch_add(*hand / round, Ordering::Relaxed);
        *hand %= round;
    }
}

/// Takes the marks of the pages in `mask` away.
fn pardon(table: &LogicalPageTable, cluster: ClusterNo, mask: u64) {
    if mask == 0 {
        return;
    }
    let marked = |_, entry| may_leave(entry) && is_recent(entry);
    let Some(mut pages) = table.try_lock_pages(cluster, mask, marked) else {
        return;
    };
    for (first, length) in crate::page::runs(pages.mask()) {
        for index in first..first + length {
            let entry = pages.entry(index);
            pages.commit(index, entry.with_flags(entry.flags().without(RECENT)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageNo;
    use crate::table::{Entry, Flags, Guard, State};

    fn table_with_mapped(pages: &[(u64, Flags)]) -> LogicalPageTable {
        let table = LogicalPageTable::new(PageNo(1024));
        if let Guard::Block(block) = table.lock(PageNo(0)) {
            block.split();
        }
        for (page, flags) in pages {
            if let Guard::Pages(mut guard) = table.lock(PageNo(*page)) {
                guard.commit((*page % 64) as usize, Entry::new(State::Mapped, *flags));
            }
        }
        table
    }

    #[test]
    fn a_touched_page_outlives_one_that_merely_came_along() {
        let table = table_with_mapped(&[
            (3, Flags::ACCESSED),
            (4, Flags::NONE),
            (70, Flags::ACCESSED),
        ]);
        let clock = Clock::default();
        let victims = |cluster, mask| {
            Some(Victims::Pages {
                cluster: ClusterNo(cluster),
                mask,
            })
        };
        assert_eq!(clock.victims(&table), victims(0, 1 << 4));
        assert_eq!(
            clock.victims(&table),
            victims(0, 1 << 3 | 1 << 4),
            "the mark is gone after a round"
        );
    }

    #[test]
    fn a_pinned_page_never_leaves() {
        let table = table_with_mapped(&[(3, Flags::PINNED)]);
        assert_eq!(Clock::default().victims(&table), None);
    }

    #[test]
    fn a_whole_block_leaves_whole() {
        let table = LogicalPageTable::new(PageNo(1024));
        if let Guard::Block(block) = table.lock(PageNo(512)) {
            block.commit(Entry::new(State::Mapped, Flags::ACCESSED));
        }
        assert_eq!(Clock::default().victims(&table), Some(Victims::Block(1)));
    }
}
