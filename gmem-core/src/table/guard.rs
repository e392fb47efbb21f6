//! What holds locks of the table: dropped without a commit, a guard leaves every word as it was.

use super::{Entry, Flags, Leaf, LogicalPageTable, State};
use crate::page::{BLOCK_PAGES, CLUSTER_PAGES, ClusterNo, PageNo, runs};

/// The lock of the word that describes a page.
pub enum Guard<'t> {
    /// The page's own word, in a split block.
    Pages(Pages<'t>),
    /// The word of the whole block.
    Block(Block<'t>),
}

/// Locked words of pages of one cluster, in a split block.
pub struct Pages<'t> {
    leaf: &'t Leaf,
    cluster: ClusterNo,
    held: u64,
}

impl<'t> Pages<'t> {
    pub(super) fn none(leaf: &'t Leaf, cluster: ClusterNo) -> Self {
        Self {
            leaf,
            cluster,
            held: 0,
        }
    }

    /// Takes over the lock of `page`, which the caller has.
    pub(super) fn holding(leaf: &'t Leaf, page: PageNo) -> Self {
        Self {
            leaf,
            cluster: ClusterNo::of(page),
            held: 1 << ClusterNo::index(page),
        }
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterNo {
        self.cluster
    }

    /// Which pages of the cluster are held.
    pub fn mask(&self) -> u64 {
        self.held
    }

    /// The entry of a held page.
    pub fn entry(&self, index: usize) -> Entry {
        debug_assert!(self.held & 1 << index != 0);
        self.word(index).peek()
    }

    /// Adds those pages in `mask` whose lock is free and whose entry `accept`s.
    pub fn try_add(&mut self, mask: u64, accept: impl Fn(usize, Entry) -> bool) {
        for (first, length) in runs(mask & !self.held) {
            for index in first..first + length {
                let word = self.word(index);
                // Looked at before it is locked: most pages of a sweep are passed by.
                let wanted = |entry: Entry| entry.state() != State::InBlock && accept(index, entry);
                if !wanted(word.peek()) || !word.try_lock() {
                    continue;
                }
                self.held |= 1 << index;
                if !wanted(word.peek()) {
                    self.release(1 << index);
                }
            }
        }
    }

    /// Changes what a held page's word says and lets go of it.
    pub fn commit(&mut self, index: usize, entry: Entry) {
        debug_assert!(self.held & 1 << index != 0);
        self.held &= !(1 << index);
        self.word(index).unlock(entry);
    }

    /// Changes what a held page's word says and goes on holding it: what happened cannot be undone.
    pub fn revise(&mut self, index: usize, entry: Entry) {
        debug_assert!(self.held & 1 << index != 0);
        self.word(index).revise(entry);
    }

    /// Lets go of the held pages in `mask`, unchanged.
    pub fn release(&mut self, mask: u64) {
        for (first, length) in runs(mask & self.held) {
            for index in first..first + length {
                self.commit(index, self.word(index).peek());
            }
        }
    }

    fn word(&self, index: usize) -> &'t super::Word {
        &self.leaf[self.cluster.page(index).index_in_block()]
    }
}

impl Drop for Pages<'_> {
    fn drop(&mut self) {
        self.release(u64::MAX);
    }
}

/// The locked word of a block.
pub struct Block<'t> {
    table: &'t LogicalPageTable,
    number: u64,
    held: bool,
}

impl<'t> Block<'t> {
    /// Takes over the lock of the block's word, which the caller has.
    pub(super) fn holding(table: &'t LogicalPageTable, number: u64) -> Self {
        Self {
            table,
            number,
            held: true,
        }
    }

    /// The block's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The block's first page.
    pub fn start(&self) -> PageNo {
        PageNo(self.number * BLOCK_PAGES as u64)
    }

    /// The block's entry.
    pub fn entry(&self) -> Entry {
        self.table.slot(self.number).word.peek()
    }

    /// Changes what the block's word says and lets go of it.
    pub fn commit(mut self, entry: Entry) {
        self.held = false;
        self.table.slot(self.number).word.unlock(entry);
    }

    /// Gives each page a word of its own: the page is where it was, in its part of the block's frame.
    pub fn split(self) {
        let entry = self.entry();
        self.split_into(|index| entry.of_page_in_block(index));
    }

    /// Gives each page a word of its own, saying what `entry_of` says of the page with that index.
    pub fn split_into(self, entry_of: impl Fn(usize) -> Entry) {
        for (index, word) in self.table.leaf(self.number).iter().enumerate() {
            // Somebody who saw an earlier split may hold this word for the moment that it takes to find
            // it out of use.
            word.lock();
            word.unlock(entry_of(index));
        }
        self.commit(Entry::new(State::Split, Flags::NONE));
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        if self.held {
            let word = &self.table.slot(self.number).word;
            word.unlock(word.peek());
        }
    }
}

/// A split block's word with those of all its pages, locked.
pub struct WholeLeaf<'t> {
    // Declared first, so released first: a waiter for a page must not find the block's word locked.
    clusters: Vec<Pages<'t>>,
    block: Block<'t>,
}

impl<'t> WholeLeaf<'t> {
    pub(super) fn try_holding(block: Block<'t>, leaf: &'t Leaf) -> Option<Self> {
        let mut clusters = Vec::with_capacity(BLOCK_PAGES / CLUSTER_PAGES);
        for first in (0..BLOCK_PAGES).step_by(CLUSTER_PAGES) {
            let cluster = ClusterNo::of(block.start().add(first as u64));
            let mut pages = Pages::none(leaf, cluster);
            pages.try_add(u64::MAX, |_, _| true);
            if pages.mask() != u64::MAX {
                return None;
            }
            clusters.push(pages);
        }
        Some(Self { clusters, block })
    }

    /// The block's first page.
    pub fn start(&self) -> PageNo {
        self.block.start()
    }

    /// The entry of page `index` (0 to 511) of the block.
    pub fn entry(&self, index: usize) -> Entry {
        self.clusters[index / CLUSTER_PAGES].entry(index % CLUSTER_PAGES)
    }

    /// Makes the block whole: `entry` describes it from now on.
    pub fn collapse(mut self, entry: Entry) {
        let in_block = Entry::new(State::InBlock, Flags::NONE);
        for pages in &mut self.clusters {
            for index in 0..CLUSTER_PAGES {
                pages.commit(index, in_block);
            }
        }
        self.block.commit(entry);
    }
}
