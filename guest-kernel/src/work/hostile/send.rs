//! Offering requests, and lying about them.

use super::Machine;
use super::attack::{Attack, Queue};
use super::chain::{Chain, Descriptor, INDIRECT, NEXT, WRITE};
use super::kind::Kind;
use super::score::Score;

/// Requests in a round, at most.
const REQUESTS: u64 = 24;

impl<M: Machine> Attack<'_, '_, M> {
    /// Requests of all kinds, in all queues.
    pub(super) fn requests(&mut self, score: &mut Score) {
        let count = 1 + self.random.below(REQUESTS);
        for _ in 0..count {
            score.attacks += 1;
            // Queue 1 is where packets and output go: where there is something to make sense of.
            let number = match self.chance(30) && self.kind.queues() > 1 {
                true => 1,
                false => self.random.below(self.kind.queues() as u64) as usize,
            };
            match self.random.below(20) {
                0 => self.disturb(),
                1 => self.overwrite_itself(number),
                _ => self.send(number),
            }
            if self.chance(10) {
                self.pause(200);
            }
        }
        for number in 0..self.kind.queues() {
            self.registers.notify(number as u32);
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
        if fresh_ones(size, fresh) < chain.len {
            return self.send_again(number);
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
        // Not each alone: the device finds several.
        if self.chance(60) {
            self.notify(number);
        }
        if self.chance(self.percent / 3) {
            self.change_afterwards(number, fresh, &mut chain);
        }
    }

    /// Offers what was offered before: all descriptors are in use, and may be under way.
    fn send_again(&mut self, number: usize) {
        let Queue { places, size, .. } = self.queues[number];
        if places.avail == self.arena.queue(self.cpu, number).avail {
            let head = self.random.below(size.into()) as u16;
            self.offer(number, head);
        }
        self.notify(number);
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
        if self.kind.unit().is_some() {
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
            if !at_home(old.address) || old.flags & INDIRECT != 0 {
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
        if self.kind != Kind::Rng || fresh_ones(size, fresh) < 1 {
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
}

/// How many fresh descriptors a queue has.
fn fresh_ones(size: u16, fresh: u16) -> usize {
    usize::from(size.saturating_sub(fresh))
}
