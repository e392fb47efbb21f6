//! One CPU's attacks on one device.

use super::arena::{Arena, Places, QUEUE_SIZE, QUEUES};
use super::chain::{Chain, Descriptor, NEXT, WRITE};
use super::kind::Kind;
use super::registers::*;
use super::score::Score;
use super::{Crew, Machine};
use crate::clock::cycles;
use crate::math::random::Random;
use core::hint::spin_loop;

/// Requests in a round, at most.
const REQUESTS: u64 = 24;

/// A queue as this round has set it up.
#[derive(Clone, Copy)]
pub(super) struct Queue {
    pub(super) places: Places,
    pub(super) size: u16,
    /// The first descriptor that was not used since the last reset: a device may still read the others.
    fresh: u16,
    offered: u16,
}

/// The attacker.
pub(super) struct Attack<'a, 'm, M> {
    pub(super) registers: Registers<'m, M>,
    pub(super) arena: Arena<'a>,
    pub(super) kind: Kind,
    pub(super) cpu: usize,
    pub(super) random: Random,
    pub(super) indirect_used: u64,
    pub(super) queues: [Queue; QUEUES],
    /// Cycles of a microsecond.
    microsecond: u64,
    /// Percent of this round's requests that something is done to. A device that is broken early does nothing more: in
    /// some rounds much is to be under way when it breaks, or nothing breaks it.
    percent: u64,
}

impl<'a, 'm, M: Machine> Attack<'a, 'm, M> {
    /// The attacks that CPU `crew.cpu` makes on this device, always the same for a seed.
    pub(super) fn new(
        crew: &Crew<'m, M>,
        arena: Arena<'a>,
        registers: Registers<'m, M>,
        kind: Kind,
    ) -> Self {
        let stream = (registers.number as u64) << 8 | crew.cpu as u64;
        let queue = |number| Queue {
            places: arena.queue(crew.cpu, number),
            size: QUEUE_SIZE,
            fresh: 0,
            offered: 0,
        };
        Self {
            registers,
            arena,
            kind,
            cpu: crew.cpu,
            random: Random::new(crew.plan.seed, stream),
            indirect_used: 0,
            queues: core::array::from_fn(queue),
            microsecond: crew.frequency.cycles(1),
            percent: 0,
        }
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// One round. The device is in any state before and after it.
    pub(super) fn round(&mut self, score: &mut Score) {
        score.rounds += 1;
        self.percent = [0, 4, 10, 30, 60][self.random.below(5) as usize];
        match self.random.below(10) {
            0 | 1 => self.blind(score),
            2 => {
                self.set_up(|attack, number| attack.wicked_queue(number));
                self.requests(score);
            }
            3 => {
                self.set_up(|attack, number| attack.overlaid_queue(number));
                self.stir(score);
            }
            _ => {
                self.set_up(|_, _| {});
                self.requests(score);
            }
        }
        if self.registers.needs_reset() {
            score.broken += 1;
        }
    }

    /// Resets the device, and takes it as a driver would, more or less. `place` may change where queue and rings are.
    fn set_up(&mut self, place: impl Fn(&mut Self, usize)) {
        let registers = self.registers;
        self.exclusive(|attack| {
            registers.reset();
            attack.forget();
            registers.add_status(status::ACKNOWLEDGE | status::DRIVER);
            let offered = registers.offered();
            let features = match attack.random.below(10) {
                0 => offered & attack.random.bits() | VERSION_1,
                1 => attack.random.bits(),
                2 => offered & !VERSION_1,
                _ => offered,
            };
            registers.accept(features);
            registers.add_status(status::FEATURES_OK);
            for number in 0..attack.kind.queues() {
                if attack.chance(4) {
                    // A queue that is left alone: where it is, nothing is.
                    continue;
                }
                registers.write(QUEUE_SEL, number as u32);
                let most = registers.read(QUEUE_NUM_MAX).clamp(1, QUEUE_SIZE.into()) as u16;
                let size = match attack.chance(50) {
                    true => most,
                    false => 1 << attack.random.below(u64::from(most.ilog2()) + 1),
                };
                registers.write(QUEUE_NUM, size.into());
                if attack.chance(5) {
                    // Refused: it stays as it is.
                    let sizes = [0, 3, u32::from(most) * 2, 1 << 16, u32::MAX];
                    let size = sizes[attack.random.below(5) as usize];
                    registers.write(QUEUE_NUM, size);
                }
                let queue = &mut attack.queues[number];
                queue.size = size;
                queue.places = attack.arena.queue(attack.cpu, number);
                place(attack, number);
                let Places { table, avail, used } = attack.queues[number].places;
                registers.place(table, avail, used);
                registers.write(QUEUE_READY, 1);
            }
            registers.add_status(status::DRIVER_OK);
        });
    }

    /// Rings are empty, and all descriptors fresh. The device was reset.
    pub(super) fn forget(&mut self) {
        for (number, queue) in self.queues.iter_mut().enumerate() {
            queue.fresh = 0;
            queue.offered = 0;
            queue.size = QUEUE_SIZE;
            queue.places = self.arena.queue(self.cpu, number);
            self.arena.put64(queue.places.avail, 0);
            self.arena.put64(queue.places.used, 0);
        }
        self.indirect_used = 0;
    }

    /// Requests of all kinds, in all queues.
    fn requests(&mut self, score: &mut Score) {
        let count = 1 + self.random.below(REQUESTS);
        for _ in 0..count {
            score.attacks += 1;
            let number = self.random.below(self.kind.queues() as u64) as usize;
            match self.random.below(20) {
                0 => self.disturb(),
                1 => self.overwrite_itself(number),
                _ => self.send(number),
            }
            if self.chance(10) {
                self.pause(200);
            }
        }
        // Rather often the reset comes in the middle of it.
        if self.chance(60) {
            self.pause(1000);
        }
    }

    /// One request, right or wrong.
    fn send(&mut self, number: usize) {
        let long = self
            .chance(self.percent / 8)
            .then(|| self.long_request())
            .flatten();
        let mut chain = match long {
            Some(chain) => chain,
            None => self.request(number),
        };
        let Queue { size, fresh, .. } = self.queues[number];
        if long_for(size, fresh) < chain.len {
            return;
        }
        if long.is_none() {
            chain.link(fresh);
            if self.chance(self.percent) {
                for _ in 0..1 + self.random.below(2) {
                    self.mutate(&mut chain, fresh, size);
                }
            }
        }
        let places = self.queues[number].places;
        let own = self.arena.queue(self.cpu, number);
        for (index, descriptor) in (u64::from(fresh)..).zip(chain.used().iter()) {
            self.put(own.table + 16 * index, *descriptor);
        }
        self.queues[number].fresh += chain.len as u16;
        // Where the ring is elsewhere, nothing is written: it may be anybody's.
        if places.avail == own.avail {
            self.offer(number, fresh);
        }
        self.notify(number);
        if self.chance(self.percent / 3) {
            self.change_afterwards(number, fresh, &mut chain);
        }
    }

    /// Makes the request at `head` available, and lies about it at times.
    fn offer(&mut self, number: usize, head: u16) {
        let lie = match self.chance(self.percent) {
            true => self.random.below(20),
            false => u64::MAX,
        };
        let any = self.random.bits() as u16;
        let queue = &mut self.queues[number];
        let (avail, size) = (queue.places.avail, queue.size);
        let times = if lie == 0 { size.min(64) } else { 1 };
        for _ in 0..times {
            let head = match lie {
                1 => size,
                2 => any,
                _ => head,
            };
            let at = avail + 4 + 2 * u64::from(queue.offered % size);
            self.arena.put16(at, head);
            queue.offered = queue.offered.wrapping_add(1);
        }
        let index = match lie {
            3 => any,
            4 => queue.offered.wrapping_add(size),
            5 => queue.offered.wrapping_sub(2),
            _ => queue.offered,
        };
        self.arena.put16(avail + 2, index);
        if lie == 6 {
            // Interrupts when the device likes.
            self.arena.put16(avail + 4 + 2 * u64::from(size), any);
            self.arena.put16(avail, any);
        }
    }

    fn notify(&mut self, number: usize) {
        let queue = match self.random.below(30) {
            0 => self.kind.queues() as u32,
            1 => self.random.bits() as u32,
            2 => u32::MAX,
            _ => number as u32,
        };
        self.registers.notify(queue);
    }

    /// Changes descriptors that the device may be reading: only such that any mixture of old and new ones names the
    /// target zone, or no RAM.
    fn change_afterwards(&mut self, number: usize, slot: u16, chain: &mut Chain) {
        if self.kind == Kind::Balloon {
            return;
        }
        let target = self.arena.target();
        let table = self.arena.queue(self.cpu, number).table;
        for _ in 0..1 + self.random.below(16) {
            let index = self.random.below(chain.len.max(1) as u64);
            let Some(old) = chain.used().get(index as usize).copied() else {
                return;
            };
            let at_home = |address: u64| address >= target.start;
            if !at_home(old.address) || old.flags & super::chain::INDIRECT != 0 {
                continue;
            }
            let descriptor = Descriptor {
                address: match self.chance(50) {
                    true => self.target(1),
                    false => self.elsewhere(),
                },
                len: self.random.bits() as u32 >> self.random.below(32),
                flags: self.random.bits() as u16 & (NEXT | WRITE),
                next: self.random.bits() as u16 >> self.random.below(16),
            };
            self.put(table + 16 * (u64::from(slot) + index), descriptor);
            chain.used()[index as usize] = descriptor;
        }
    }

    /// A device that writes random bytes writes them over its own descriptors and rings: whole descriptors, so that each
    /// address is either what it was or any of 2^64.
    fn overwrite_itself(&mut self, number: usize) {
        let Queue { size, fresh, .. } = self.queues[number];
        if self.kind != Kind::Rng || long_for(size, fresh) < 1 {
            return self.send(number);
        }
        let own = self.arena.queue(self.cpu, number);
        let descriptor = Descriptor {
            address: own.table + 16 * self.random.below(size.into()),
            len: 16 * (1 + self.random.below(255)) as u32,
            flags: WRITE,
            next: 0,
        };
        self.put(own.table + 16 * u64::from(fresh), descriptor);
        self.queues[number].fresh += 1;
        if self.queues[number].places.avail == own.avail {
            self.offer(number, fresh);
            self.notify(number);
        }
    }

    /// Spins for up to so many microseconds.
    pub(super) fn pause(&mut self, microseconds: u64) {
        let limit = self.random.below(microseconds) * self.microsecond;
        let start = cycles();
        while cycles().saturating_sub(start) < limit {
            spin_loop();
        }
    }
}

/// How many fresh descriptors a queue has.
fn long_for(size: u16, fresh: u16) -> usize {
    usize::from(size.saturating_sub(fresh))
}
