//! A driver that follows the rules: it proves that a device works.

use super::arena::{Arena, Places};
use super::kind::Kind;
use super::registers::*;
use super::{Crew, Machine};
use crate::clock::cycles;
use core::hint::spin_loop;

/// Descriptors of each queue.
const SIZE: u16 = 8;
/// A queue's rings in the honest zone, and where buffers begin.
const RINGS: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const BUFFERS: u64 = 0x8000;
/// What lies behind buffers.
const GUARD: u64 = 0x6775_6172_6421_2121;
/// How long a device may take for one request, microseconds.
const LIMIT_US: u64 = 10_000_000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

/// What is wrong with a device.
pub(super) type Fault = &'static str;

/// A buffer: address, bytes, and whether the device writes it.
pub(super) type Buffer = (u64, u32, bool);

/// The driver of one device.
pub(super) struct Driver<'a, M> {
    pub(super) registers: Registers<'a, M>,
    pub(super) kind: Kind,
    pub(super) arena: Arena<'a>,
    limit: u64,
    zone: u64,
    /// Requests offered to each queue, and answers taken from it.
    offered: [u16; super::arena::QUEUES],
    taken: [u16; super::arena::QUEUES],
    /// Something that differs each time.
    pub(super) nonce: u64,
}

impl<'a, M: Machine> Driver<'a, M> {
    pub(super) fn new(
        crew: &Crew<'a, M>,
        arena: Arena<'a>,
        registers: Registers<'a, M>,
        kind: Kind,
    ) -> Self {
        Self {
            zone: arena.honest(registers.number).start,
            limit: crew.frequency.cycles(LIMIT_US),
            registers,
            kind,
            arena,
            offered: [0; super::arena::QUEUES],
            taken: [0; super::arena::QUEUES],
            nonce: crew.plan.seed,
        }
    }

    /// Address of byte `offset` of the buffers.
    pub(super) fn buffer(&self, offset: u64) -> u64 {
        self.zone + BUFFERS + offset
    }

    fn places(&self, queue: usize) -> Places {
        let table = self.zone + RINGS * queue as u64;
        Places {
            table,
            avail: table + AVAIL,
            used: table + USED,
        }
    }

    /// Resets the device, agrees on `features` and version 1, and says that the driver is ready.
    pub(super) fn start(&mut self, features: u64) -> Result<(), Fault> {
        let registers = &self.registers;
        registers.reset();
        if registers.status() != 0 {
            return Err("a reset left something in the status");
        }
        self.arena.clear(self.arena.honest(registers.number));
        registers.add_status(status::ACKNOWLEDGE);
        registers.add_status(status::DRIVER);
        registers.accept(registers.offered() & (features | VERSION_1));
        if registers.add_status(status::FEATURES_OK) & status::FEATURES_OK == 0 {
            return Err("the features on offer were refused");
        }
        for queue in 0..self.kind.queues() {
            registers.write(QUEUE_SEL, queue as u32);
            if registers.read(QUEUE_NUM_MAX) < SIZE.into() || registers.read(QUEUE_READY) != 0 {
                return Err("a queue is not as a reset leaves it");
            }
            registers.write(QUEUE_NUM, SIZE.into());
            let places = self.places(queue);
            registers.place(places.table, places.avail, places.used);
            registers.write(QUEUE_READY, 1);
        }
        self.offered.fill(0);
        self.taken.fill(0);
        let now = registers.add_status(status::DRIVER_OK);
        if now & (status::DRIVER_OK | status::NEEDS_RESET) != status::DRIVER_OK {
            return Err("a driver by the rules was not accepted");
        }
        Ok(())
    }

    /// Puts a request into `queue`, in descriptors from `slot` on.
    pub(super) fn offer(&mut self, queue: usize, slot: u16, buffers: &[Buffer]) {
        let places = self.places(queue);
        for (index, (address, len, writable)) in (slot..).zip(buffers) {
            let last = usize::from(index - slot) + 1 == buffers.len();
            let flags = u16::from(!last) * NEXT + u16::from(*writable) * WRITE;
            let at = places.table + 16 * u64::from(index);
            self.arena.put64(at, *address);
            let rest = u64::from(*len) | u64::from(flags) << 32 | u64::from(index + 1) << 48;
            self.arena.put64(at + 8, rest);
        }
        let offered = &mut self.offered[queue];
        let head = places.avail + 4 + 2 * u64::from(*offered % SIZE);
        self.arena.put16(head, slot);
        *offered = offered.wrapping_add(1);
        self.arena.put16(places.avail + 2, *offered);
        self.registers.notify(queue as u32);
    }

    /// The next answer of `queue`, if it is there: head and bytes written.
    pub(super) fn answer(&mut self, queue: usize) -> Option<(u32, u32)> {
        let places = self.places(queue);
        let taken = &mut self.taken[queue];
        if self.arena.get16(places.used + 2) == *taken {
            return None;
        }
        let element = places.used + 4 + 8 * u64::from(*taken % SIZE);
        *taken = taken.wrapping_add(1);
        Some((self.arena.get32(element), self.arena.get32(element + 4)))
    }

    /// Waits until `found` finds something.
    pub(super) fn wait<T>(
        &mut self,
        limit: u64,
        mut found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let start = cycles();
        loop {
            if let Some(result) = found(self) {
                return Some(result);
            }
            if cycles().saturating_sub(start) > limit {
                return None;
            }
            spin_loop();
        }
    }

    /// The same, for as long as a device may take.
    pub(super) fn wait_long<T>(
        &mut self,
        found: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Fault> {
        let limit = self.limit;
        self.wait(limit, found).ok_or_else(|| {
            if self.registers.needs_reset() {
                "a request by the rules broke the device"
            } else {
                "a request by the rules was not answered in time"
            }
        })
    }

    /// Sends a request and waits for its end; how many bytes were written into it. What is behind its buffers stays.
    pub(super) fn ask(&mut self, queue: usize, buffers: &[Buffer]) -> Result<u32, Fault> {
        let arena = self.arena;
        let behind = || {
            let whole = buffers.iter().filter(|(_, len, _)| len % 8 == 0);
            whole.map(|(address, len, _)| address + u64::from(*len))
        };
        behind().for_each(|guard| arena.put64(guard, GUARD));
        self.offer(queue, 0, buffers);
        let (head, written) = self.wait_long(|driver| driver.answer(queue))?;
        if !behind().all(|guard| arena.get64(guard) == GUARD) {
            return Err("a device wrote behind its buffer");
        }
        match head {
            0 => Ok(written),
            _ => Err("an answer names another request"),
        }
    }
}
