//! What is learned of the use of mapped pages is noted in their entries.

use super::Engine;
use crate::page::{ClusterNo, runs};
use crate::policy::hotness::{Hotness, Rounds, WINDOW, cluster};
use crate::table::{ClusterView, Entry, Flags, LogicalPageTable, State};
use std::time::{Duration, Instant};

impl Engine {
    /// Watches one block's pages and asks about those that were watched before: what was accessed is marked so, what was
    /// not loses the mark. Returns how long to wait before the next call.
    ///
    /// One thread calls this, with the same `rounds` each time.
    pub fn observe(&self, hotness: &dyn Hotness, rounds: &mut Rounds) -> Duration {
        let _passing = self.gate.pass();
        while let Some(watched) = rounds.due(Instant::now()) {
            if let Some(accessed) = hotness.accessed(watched.block, &watched.mapped) {
                for (index, (&asked, used)) in watched.mapped.iter().zip(accessed).enumerate() {
                    note(&self.table, cluster(watched.block, index), asked, used);
                }
            }
        }
        let mapped = |cluster| self.mapped(cluster);
        match rounds.next(self.table.blocks(), mapped, Instant::now()) {
            Some(block) if hotness.watch(block.block) => rounds.watching(block),
            _ => WINDOW,
        }
    }

    fn mapped(&self, cluster: ClusterNo) -> u64 {
        let is_mapped = |entry: Entry| entry.state() == State::Mapped;
        match self.table.view(cluster) {
            ClusterView::Whole(entry) if is_mapped(entry) => u64::MAX,
            ClusterView::Whole(_) => 0,
            ClusterView::Pages(words) => words
                .iter()
                .enumerate()
                .filter(|(_, word)| is_mapped(word.peek()))
                .fold(0, |mask, (index, _)| mask | 1 << index),
        }
    }
}

/// Marks pages of `asked` by whether they are in `accessed`; passes by who is locked, or has left.
fn note(table: &LogicalPageTable, cluster: ClusterNo, asked: u64, accessed: u64) {
    let noted = |index: usize, entry: Entry| match accessed & 1 << index {
        0 => entry.flags().without(Flags::ACCESSED),
        _ => entry.flags().with(Flags::ACCESSED),
    };
    let changes = |index, entry: Entry| {
        entry.state() == State::Mapped && noted(index, entry) != entry.flags()
    };
    if let Some(mut pages) = table.try_lock_pages(cluster, asked, changes) {
        for (first, length) in runs(pages.mask()) {
            for index in first..first + length {
                let entry = pages.entry(index);
                pages.commit(index, entry.with_flags(noted(index, entry)));
            }
        }
    }
    // A whole block was used if any page of it was.
    if accessed != 0
        && let Some(block) = table.try_lock_block(cluster.block())
        && block.entry().state() == State::Mapped
    {
        let entry = block.entry();
        block.commit(entry.with_flags(entry.flags().with(Flags::ACCESSED)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PageNo;
    use crate::table::Guard;

    fn table_of(split: bool) -> LogicalPageTable {
        let table = LogicalPageTable::new(PageNo(512));
        if let Guard::Block(block) = table.lock(PageNo(0)) {
            block.commit(Entry::new(State::Mapped, Flags::DIRTY));
        }
        if split && let Guard::Block(block) = table.lock(PageNo(0)) {
            block.split();
        }
        table
    }

    #[test]
    fn pages_are_marked_by_whether_they_were_accessed() {
        let table = table_of(true);
        let marked = |page| table.peek(PageNo(page)).flags().has(Flags::ACCESSED);
        note(&table, ClusterNo(0), 0b111, 0b011);
        assert_eq!([0, 1, 2, 3].map(marked), [true, true, false, false]);
        note(&table, ClusterNo(0), 0b101, 0b100);
        assert_eq!([0, 1, 2, 3].map(marked), [false, true, true, false]);
        assert!(table.peek(PageNo(0)).flags().has(Flags::DIRTY));
    }

    #[test]
    fn a_page_that_has_left_is_not_marked() {
        let table = table_of(true);
        if let Guard::Pages(mut pages) = table.lock(PageNo(1)) {
            pages.commit(1, Entry::new(State::Untouched, Flags::NONE));
        }
        note(&table, ClusterNo(0), u64::MAX, u64::MAX);
        assert!(!table.peek(PageNo(1)).flags().has(Flags::ACCESSED));
    }

    #[test]
    fn a_whole_block_is_marked_if_a_page_of_it_was_accessed() {
        let table = table_of(false);
        let marked = || table.peek(PageNo(0)).flags().has(Flags::ACCESSED);
        note(&table, ClusterNo(3), u64::MAX, 0);
        assert!(!marked());
        note(&table, ClusterNo(3), u64::MAX, 1 << 9);
        assert!(marked());
    }
}
