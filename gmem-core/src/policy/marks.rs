//! Marks of use in entries, as every policy reads them.

use crate::table::{Entry, Flags, LogicalPageTable, State};

/// What speaks for staying, once.
pub(super) const RECENT: Flags = Flags::ACCESSED.with(Flags::WILL_NEED);

pub(super) fn may_leave(entry: Entry) -> bool {
    entry.state() == State::Mapped && !entry.flags().has(Flags::PINNED)
}

pub(super) fn is_recent(entry: Entry) -> bool {
    entry.flags().without(RECENT) != entry.flags()
}

/// Takes the mark of a block away, if it has one.
pub(super) fn pardon_block(table: &LogicalPageTable, number: u64, entry: Entry) -> bool {
    if !is_recent(entry) {
        return false;
    }
    if let Some(block) = table.try_lock_block(number) {
        let entry = block.entry();
        block.commit(entry.with_flags(entry.flags().without(RECENT)));
    }
    true
}
