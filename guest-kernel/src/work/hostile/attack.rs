//! One CPU's attacks on one device.

use super::arena::{Arena, QUEUE_SIZE, QUEUES};
use super::kind::Kind;
use super::score::Score;
use super::{Crew, Machine};
use crate::clock::cycles;
use crate::math::random::Random;
use crate::virtio::Fault;
use crate::virtio::queue::Places;
use crate::virtio::registers::*;
use core::hint::spin_loop;
use core::ops::Range;

/// A queue as this round has set it up.
#[derive(Clone, Copy)]
pub(super) struct Queue {
    pub(super) places: Places,
    pub(super) size: u16,
    /// The first descriptor that was not used since the last reset: a device may still read the others.
    pub(super) fresh: u16,
    pub(super) offered: u16,
}

/// The attacker.
pub(super) struct Attack<'a, 'm, M> {
    pub(super) registers: Registers<'m, M>,
    pub(super) arena: Arena<'a>,
    /// Memory that may be plugged in, and is nobody's.
    pub(super) pluggable: Range<u64>,
    pub(super) kind: Kind,
    pub(super) cpu: usize,
    pub(super) random: Random,
    /// How much of the indirect tables and of the page numbers was used since the last reset.
    pub(super) indirect_used: u64,
    pub(super) numbers_used: u64,
    pub(super) queues: [Queue; QUEUES],
    /// Cycles of a microsecond.
    microsecond: u64,
    /// Percent of this round's requests that something is done to. A device that is broken early does nothing more: in
    /// some rounds much is to be under way when it breaks, or nothing breaks it.
    pub(super) percent: u64,
}

impl<'a, 'm, M: Machine> Attack<'a, 'm, M> {
    /// The attacks that CPU `crew.cpu` makes on this device, always the same for a seed.
    pub(super) fn new(
        crew: &Crew<'m, M>,
        arena: Arena<'a>,
        pluggable: Range<u64>,
        (registers, kind): (Registers<'m, M>, Kind),
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
            pluggable,
            kind,
            cpu: crew.cpu,
            random: Random::new(crew.plan.seed, stream),
            indirect_used: 0,
            numbers_used: 0,
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
        self.numbers_used = 0;
        self.arena.empty_tables(self.cpu);
    }

    /// Resets the device in the middle of whatever it does: on return it writes no more. Only for a CPU that is alone: the
    /// target zone is everybody's.
    pub(super) fn reset_ends_all(&mut self) -> Result<(), Fault> {
        self.registers.reset();
        let before = self.arena.target_sum();
        self.pause(1500);
        match self.arena.target_sum() == before {
            true => Ok(()),
            false => Err("a device wrote to memory after its reset"),
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
