//! The memory that hostile drivers hand to their devices, and how it is cut up.
//!
//! A device may write wherever its driver tells it to: that is DMA, and no monitor can know better. So what the
//! attacks tell devices has to stay within memory that nobody else uses, whatever the devices make of it.
//!
//! - The arena is the *last* memory of the guest. An address in the target zone with any length whatsoever either ends in
//!   the target zone, which is the arena's last part, or reaches beyond RAM, where a device must refuse it.
//! - What devices read and *obey* lies before the target zone, and no device is told to write there: tables of
//!   descriptors, the page numbers that a balloon frees, and the commands of accelerators and of the memory system's door. What devices wrote is never obeyed.
//! - What is obeyed is written once between two resets, over what stands for nothing: what a device sees of it while it is
//!   being written is nothing, or the whole. Only descriptors of the target zone are changed under a device's eyes.
//! - The exceptions are attacks: a used ring on top of a descriptor table makes addresses of what devices write. They
//!   choose what is beneath so that every address that can come about is beyond RAM (see `attack`).
//!
//! | zone | what |
//! |---|---|
//! | tables, one for each CPU that attacks | per queue a descriptor table and rings; indirect tables; page numbers, or commands |
//! | honest, one for each device | rings and buffers of the driver that proves that the device works |
//! | target, shared | buffers |

use crate::extent::Extent;
use crate::memory::WorkingSet;
use crate::virtio::queue::Places;
use core::iter;
use core::ops::{Deref, Range};
use gmem_wire::layout::VIRTIO_DEVICES;

/// Pages of the arena.
pub(super) const PAGES: u64 = 6 * 256;
/// CPUs that attack, at most.
pub(super) const ATTACKERS: usize = 4;
/// A CPU's tables.
const TABLES: u64 = 0x8_0000;
/// A queue's part of them: descriptor table, available ring, used ring, each for up to 1024 descriptors.
const QUEUE: u64 = 0x8000;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x5000;
/// Queues of a device, at most.
pub(super) const QUEUES: usize = 5;
/// Descriptors of a queue, at most.
pub(super) const QUEUE_SIZE: u16 = 1024;
/// Indirect tables begin here, after the queues.
const INDIRECT: u64 = QUEUE * QUEUES as u64;
/// Bytes of indirect tables.
pub(super) const INDIRECT_SIZE: u64 = 0x1_0000;
/// Page numbers, or commands, begin here, and nothing is behind them.
const NUMBERS: u64 = INDIRECT + INDIRECT_SIZE;
/// Bytes of page numbers.
pub(super) const NUMBERS_SIZE: u64 = 0x1_0000;
/// An address without memory.
pub(super) const NOWHERE: u64 = 1 << 63;
/// A device's honest zone.
const HONEST: u64 = 0x1_0000;

const _: () = assert!(NUMBERS + NUMBERS_SIZE <= TABLES);

/// The arena.
#[derive(Clone, Copy)]
pub(super) struct Arena<'a> {
    /// Number of its first page.
    pub(super) first: u64,
    memory: Extent<'a>,
}

impl<'a> Deref for Arena<'a> {
    type Target = Extent<'a>;

    fn deref(&self) -> &Extent<'a> {
        &self.memory
    }
}

impl<'a> Arena<'a> {
    /// The last pages of `set`; none if they are too few, or not in one piece.
    pub(super) fn new(set: &'a WorkingSet) -> Option<Self> {
        let first = set.pages().checked_sub(PAGES)?;
        let memory = Extent::new(set, first)?;
        Some(Self { first, memory })
    }

    /// Queue `queue` in the tables of CPU `cpu`.
    pub(super) fn queue(&self, cpu: usize, queue: usize) -> Places {
        let table = self.start() + TABLES * cpu as u64 + QUEUE * queue as u64;
        Places {
            table,
            avail: table + AVAIL,
            used: table + USED,
        }
    }

    /// Indirect tables of CPU `cpu`.
    pub(super) fn indirect(&self, cpu: usize) -> u64 {
        self.start() + TABLES * cpu as u64 + INDIRECT
    }

    /// Page numbers of CPU `cpu`.
    pub(super) fn numbers(&self, cpu: usize) -> u64 {
        self.start() + TABLES * cpu as u64 + NUMBERS
    }

    /// Forgets the tables of CPU `cpu`. No device may use them.
    pub(super) fn clear_tables(&self, cpu: usize) {
        let start = self.start() + TABLES * cpu as u64;
        self.clear(start..start + TABLES);
        self.empty_tables(cpu);
    }

    /// Fills the tables of CPU `cpu` with descriptors of nothing, nowhere, and with numbers of no pages. No device may use
    /// them.
    ///
    /// A device may read what is being written. What it then sees is partly what was there before: where that is
    /// nowhere, all is nowhere, or of no length. Were it a right address, it would be taken for what only the new length and
    /// direction are right for.
    pub(super) fn empty_tables(&self, cpu: usize) {
        let tables = (0..QUEUES).map(|queue| self.queue(cpu, queue).table);
        let tables = tables.map(|table| table..table + 16 * u64::from(QUEUE_SIZE));
        let indirect = self.indirect(cpu);
        let all = tables.chain(iter::once(indirect..indirect + INDIRECT_SIZE));
        for descriptor in all.flat_map(|range| range.step_by(16)) {
            self.put64(descriptor + 8, 0);
            self.put64(descriptor, NOWHERE);
        }
        let numbers = self.numbers(cpu);
        for word in (numbers..numbers + NUMBERS_SIZE).step_by(8) {
            self.put64(word, u64::MAX);
        }
    }

    /// The honest zone of device `device`.
    pub(super) fn honest(&self, device: usize) -> Range<u64> {
        let start = self.start() + TABLES * ATTACKERS as u64 + HONEST * device as u64;
        start..start + HONEST
    }

    /// The target zone.
    pub(super) fn target(&self) -> Range<u64> {
        self.honest(VIRTIO_DEVICES).start..self.end()
    }

    /// A sum of all that may be in the target zone.
    pub(super) fn target_sum(&self) -> u64 {
        let words = self.target().step_by(8);
        words.fold(0, |sum: u64, at| sum.rotate_left(5) ^ self.get64(at))
    }
}
