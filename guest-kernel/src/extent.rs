//! Pages of the working set that lie one after the other, by address: what devices and vCPUs hand to each other.

use crate::memory::{PAGE_SIZE, WorkingSet};
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Release};

/// Some pages in one piece.
#[derive(Clone, Copy)]
pub struct Extent<'a> {
    set: &'a WorkingSet,
    /// Number of the first page.
    first: u64,
    start: u64,
    end: u64,
}

impl<'a> Extent<'a> {
    /// The pages of `set` from number `first` on; none if there are none, or they are not in one piece.
    pub fn new(set: &'a WorkingSet, first: u64) -> Option<Self> {
        let pages = set.pages().checked_sub(first).filter(|&pages| pages > 0)?;
        let (start, end) = (set.address(first), set.end());
        (end - start == pages * PAGE_SIZE).then_some(Self {
            set,
            first,
            start,
            end,
        })
    }

    /// Address of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Address behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The aligned word at an address.
    ///
    /// # Panics
    ///
    /// If the address is not in the extent.
    #[inline]
    pub fn word(&self, address: u64) -> &'a AtomicU64 {
        let offset = address - self.start;
        let page = self.set.page(self.first + offset / PAGE_SIZE);
        &page[(offset % PAGE_SIZE / 8) as usize]
    }

    /// Zeroes words.
    pub fn clear(&self, range: Range<u64>) {
        for address in range.step_by(8) {
            self.word(address).store(0, Release);
        }
    }

    /// Writes an aligned word.
    #[inline]
    pub fn put64(&self, address: u64, value: u64) {
        self.word(address).store(value, Release);
    }

    /// Reads an aligned word.
    #[inline]
    pub fn get64(&self, address: u64) -> u64 {
        self.word(address).load(Acquire)
    }

    /// Writes two bytes, aligned. The rest of their word must be this CPU's own.
    pub fn put16(&self, address: u64, value: u16) {
        let shift = address % 8 * 8;
        let word = self.word(address);
        let rest = word.load(Acquire) & !(0xffff << shift);
        word.store(rest | u64::from(value) << shift, Release);
    }

    /// Reads two bytes, aligned.
    pub fn get16(&self, address: u64) -> u16 {
        (self.word(address).load(Acquire) >> (address % 8 * 8)) as u16
    }

    /// Reads four bytes, aligned.
    pub fn get32(&self, address: u64) -> u32 {
        (self.word(address).load(Acquire) >> (address % 8 * 8)) as u32
    }

    /// Writes bytes. The rest of their words must be this CPU's own, or nobody's.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let word = self.word(at);
            let shift = at % 8 * 8;
            let rest = word.load(Acquire) & !(0xff << shift);
            word.store(rest | u64::from(*byte) << shift, Release);
        }
    }

    /// Writes whole words of bytes, aligned; less than a word at the end is left out.
    pub fn put_words(&self, address: u64, bytes: &[u8]) {
        for (at, word) in (address..).step_by(8).zip(bytes.as_chunks().0) {
            self.put64(at, u64::from_le_bytes(*word));
        }
    }

    /// Reads whole words of bytes, aligned; less than a word at the end is left out.
    pub fn get_words(&self, address: u64, bytes: &mut [u8]) {
        for (at, word) in (address..).step_by(8).zip(bytes.as_chunks_mut().0) {
            *word = self.get64(at).to_le_bytes();
        }
    }

    /// Reads a byte.
    pub fn get8(&self, address: u64) -> u8 {
        (self.word(address).load(Acquire) >> (address % 8 * 8)) as u8
    }
}
