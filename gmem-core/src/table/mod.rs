//! The logical page table: where each page of one address space is.
//!
//! Two levels. The directory has a word for each 2 MiB block; a block that is whole in one place is
//! described by that word alone. Otherwise the word says [`State::Split`] and the block's leaf has a word
//! for each page; a leaf is allocated when its block is first split and never freed, so that a reference
//! to it stays good. Metadata is 24 bytes a block and 8 bytes a page: 0.197% of memory that is split.
//!
//! # Locking
//!
//! A page is locked by the word that describes it. To lock a page: read its block's word; if that says
//! split, lock the leaf's word, and if that then says [`State::InBlock`] (a collapse came between) start
//! again; otherwise lock the block's word, and if it then says split start again. A collapse holds the
//! block's word and all 512 words of the leaf; a split holds the block's word, and each word of the leaf
//! while it fills it. Nobody waits for a lock while holding one, except those two, and they only try.

pub mod entry;
mod guard;
pub mod lock;

pub use entry::{Entry, Flags, Frame, Place, State};
pub use guard::{Block, Guard, Pages, WholeLeaf};
pub use lock::Word;

use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, PageNo};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

type Leaf = [Word; BLOCK_PAGES];

struct Slot {
    word: Word,
    leaf: OnceLock<Box<Leaf>>,
}

/// The logical page table of one address space.
pub struct LogicalPageTable {
    slots: Box<[Slot]>,
    leaves: AtomicU64,
}

/// What the table says of a cluster at one moment.
pub enum ClusterView<'t> {
    /// The block is whole; this is its entry.
    Whole(Entry),
    /// The words of the cluster's 64 pages.
    Pages(&'t [Word]),
}

impl LogicalPageTable {
    /// A table for the pages before `end`, all untouched. `end` is rounded up to a block.
    pub fn new(end: PageNo) -> Self {
        let blocks = end.0.div_ceil(BLOCK_PAGES as u64);
        let slots = (0..blocks)
            .map(|_| Slot {
                word: Word::new(Entry::new(State::Untouched, Flags::NONE)),
                leaf: OnceLock::new(),
            })
            .collect();
        Self {
            slots,
            leaves: AtomicU64::new(0),
        }
    }

    /// How many blocks the table describes.
    pub fn blocks(&self) -> u64 {
        self.slots.len() as u64
    }

    /// How many clusters the table describes.
    pub fn clusters(&self) -> u64 {
        self.blocks() * (BLOCK_PAGES / CLUSTER_PAGES) as u64
    }

    /// Bytes that the table itself takes.
    pub fn metadata_bytes(&self) -> u64 {
        (self.slots.len() * size_of::<Slot>()) as u64
            + self.leaves.load(Ordering::Relaxed) * size_of::<Leaf>() as u64
    }

    /// What the table says of `page` at this moment, as an entry of that page alone.
    ///
    /// # Panics
    ///
    /// If `page` is not below the table's end, as do all methods that take a page, cluster or block.
    pub fn peek(&self, page: PageNo) -> Entry {
        loop {
            let slot = self.slot(page.block());
            let block = slot.word.peek();
            let Some(leaf) = slot.leaf.get().filter(|_| block.state() == State::Split) else {
                return block.of_page_in_block(page.index_in_block());
            };
            let entry = leaf[page.index_in_block()].peek();
            if entry.state() != State::InBlock {
                return entry;
            }
        }
    }

    /// As [`LogicalPageTable::peek`], of a page of a split block; `None` while somebody has it locked, and if its block is
    /// whole: what the guest reaches may already differ from what the entry says.
    pub fn settled(&self, page: PageNo) -> Option<Entry> {
        let slot = self.slot(page.block());
        let leaf = slot.leaf.get()?;
        let entry = leaf[page.index_in_block()].settled()?;
        (entry.state() != State::InBlock).then_some(entry)
    }

    /// What the table says of `cluster` at this moment.
    pub fn view(&self, cluster: ClusterNo) -> ClusterView<'_> {
        let slot = self.slot(cluster.block());
        let block = slot.word.peek();
        match slot.leaf.get() {
            Some(leaf) if block.state() == State::Split => {
                let first = cluster.page(0).index_in_block();
                ClusterView::Pages(&leaf[first..first + CLUSTER_PAGES])
            }
            _ => ClusterView::Whole(block),
        }
    }

    /// Locks the word that describes `page`, waiting for it: the page's own, or its whole block's.
    pub fn lock(&self, page: PageNo) -> Guard<'_> {
        let slot = self.slot(page.block());
        loop {
            if slot.word.peek().state() == State::Split
                && let Some(leaf) = slot.leaf.get()
            {
                leaf[page.index_in_block()].lock();
                let pages = Pages::holding(leaf, page);
                if pages.entry(ClusterNo::index(page)).state() != State::InBlock {
                    return Guard::Pages(pages);
                }
            } else {
                slot.word.lock();
                let block = Block::holding(self, page.block());
                if block.entry().state() != State::Split {
                    return Guard::Block(block);
                }
            }
        }
    }

    /// Locks those pages of `cluster` in `mask` whose lock is free and whose entry `accept`s; `None` if
    /// there are none or if the block is whole. Never waits.
    pub fn try_lock_pages(
        &self,
        cluster: ClusterNo,
        mask: u64,
        accept: impl Fn(usize, Entry) -> bool,
    ) -> Option<Pages<'_>> {
        let slot = self.slot(cluster.block());
        if slot.word.peek().state() != State::Split {
            return None;
        }
        let mut pages = Pages::none(slot.leaf.get()?, cluster);
        pages.try_add(mask, accept);
        (pages.mask() != 0).then_some(pages)
    }

    /// Locks block `number` if it is whole and its lock is free. Never waits.
    pub fn try_lock_block(&self, number: u64) -> Option<Block<'_>> {
        let slot = self.slot(number);
        if slot.word.peek().state() == State::Split || !slot.word.try_lock() {
            return None;
        }
        let block = Block::holding(self, number);
        (block.entry().state() != State::Split).then_some(block)
    }

    /// Locks a split block with all its pages, in order to make it whole again. Never waits: `None` if
    /// any of them is locked or if the block is whole.
    pub fn try_lock_leaf(&self, number: u64) -> Option<WholeLeaf<'_>> {
        let slot = self.slot(number);
        if slot.word.peek().state() != State::Split || !slot.word.try_lock() {
            return None;
        }
        let block = Block::holding(self, number);
        if block.entry().state() != State::Split {
            return None;
        }
        WholeLeaf::try_holding(block, slot.leaf.get()?)
    }

    fn slot(&self, block: u64) -> &Slot {
        &self.slots[block as usize]
    }

    fn leaf(&self, block: u64) -> &Leaf {
        self.slot(block).leaf.get_or_init(|| {
            self.leaves.fetch_add(1, Ordering::Relaxed);
            let in_block = Entry::new(State::InBlock, Flags::NONE);
            // Collected, not built in place: an array of this size would pass over the stack.
            let words: Box<[Word]> = (0..BLOCK_PAGES).map(|_| Word::new(in_block)).collect();
            words
                .try_into()
                .unwrap_or_else(|_| unreachable!("a leaf has one word for each page of a block"))
        })
    }
}

#[cfg(test)]
mod tests;
