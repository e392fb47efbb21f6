//! Chunks of 256 bytes, each linked to the next by number.

use crate::shared::SharedMemory;
use std::io;
use std::sync::Mutex;

/// Bytes of a chunk.
pub(super) const CHUNK: usize = 256;
/// What a chunk costs: its bytes and its link.
pub(super) const COST: usize = CHUNK + LINK;
/// Bytes of a link.
const LINK: usize = size_of::<u32>();
/// Chunks of a page that does not compress.
pub(super) const PER_PAGE: usize = crate::page::PAGE_SIZE / CHUNK;

const NONE: u32 = u32::MAX;

/// A store of chunk lists. The lists themselves belong to their owners: only taking and giving back
/// chunks needs the lock, the bytes are copied without it.
pub(super) struct Chunks {
    memory: SharedMemory,
    list: Mutex<List>,
    total: u32,
}

struct List {
    /// The chunk after each one, in its list or among the free ones. Room for all: what is not used is never touched.
    next: SharedMemory,
    /// How many were ever used: those below.
    ever: u32,
    free_head: u32,
    used: u32,
    peak: u32,
}

impl Chunks {
    pub(super) fn new(total: u32) -> io::Result<Self> {
        let memory = SharedMemory::new(c"gmem-zip", (total as usize * CHUNK).max(1))?;
        let list = List {
            next: SharedMemory::new(c"gmem-zip-links", (total as usize * LINK).max(1))?,
            ever: 0,
            free_head: NONE,
            used: 0,
            peak: 0,
        };
        Ok(Self {
            memory,
            list: Mutex::new(list),
            total,
        })
    }

    pub(super) fn total(&self) -> u64 {
        u64::from(self.total)
    }

    pub(super) fn free(&self) -> u64 {
        u64::from(self.total - self.lock().used)
    }

    /// Chunks in use, and the most that ever were.
    pub(super) fn used(&self) -> (u64, u64) {
        let list = self.lock();
        (u64::from(list.used), u64::from(list.peak))
    }

    /// Stores `bytes` (at most a page, at least 1) and returns the first chunk; `None` if they do not fit.
    pub(super) fn store(&self, bytes: &[u8]) -> Option<u32> {
        let mut numbers = [NONE; PER_PAGE];
        let numbers = &mut numbers[..bytes.len().div_ceil(CHUNK)];
        self.lock().take(numbers, self.total)?;
        for (number, part) in numbers.iter().zip(bytes.chunks(CHUNK)) {
            self.memory.write(*number as usize * CHUNK, part);
        }
        numbers.first().copied()
    }

    /// Fills `into` from the list that starts at `first`.
    pub(super) fn load(&self, first: u32, into: &mut [u8]) {
        let numbers = self.lock().follow(first, into.len().div_ceil(CHUNK));
        for (number, part) in numbers.iter().zip(into.chunks_mut(CHUNK)) {
            self.memory.read(*number as usize * CHUNK, part);
        }
    }

    /// Gives back the `count` chunks of what is stored at `first`.
    pub(super) fn free_list(&self, first: u32, count: usize) {
        let mut list = self.lock();
        let last = list.follow(first, count)[count - 1];
        list.link(last, list.free_head);
        list.free_head = first;
        list.used -= count as u32;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.list
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl List {
    /// The chunk after `number`.
    fn after(&self, number: u32) -> u32 {
        let mut link = [0; LINK];
        self.next.read(number as usize * LINK, &mut link);
        u32::from_ne_bytes(link)
    }

    fn link(&self, number: u32, next: u32) {
        self.next.write(number as usize * LINK, &next.to_ne_bytes());
    }

    /// Takes as many chunks as `numbers` has places and links them in that order; all or none.
    fn take(&mut self, numbers: &mut [u32], total: u32) -> Option<()> {
        let count = numbers.len() as u32;
        if total - self.used < count {
            return None;
        }
        for number in numbers.iter_mut() {
            if self.free_head == NONE {
                *number = self.ever;
                self.ever += 1;
            } else {
                *number = self.free_head;
                self.free_head = self.after(*number);
            }
        }
        for pair in numbers.windows(2) {
            self.link(pair[0], pair[1]);
        }
        self.used += count;
        self.peak = self.peak.max(self.used);
        Some(())
    }

    /// The numbers of the first `count` chunks (at most a page's) of the list at `first`.
    fn follow(&self, first: u32, count: usize) -> [u32; PER_PAGE] {
        let mut numbers = [NONE; PER_PAGE];
        let mut number = first;
        for place in &mut numbers[..count] {
            *place = number;
            number = self.after(number);
        }
        numbers
    }
}
