//! `hostile`: drivers that follow no rule, on every virtio device that the microVM has.
//!
//! Devices are attacked one after the other, by each CPU another one, or by all the same one if it is alone. After each
//! round its device is reset and must serve a request by the rules, and so must a witness: another device, which nobody
//! attacks meanwhile. All memory beside the [`arena`] has a pattern, which is checked piece by piece during the attacks,
//! and whole in the end. The attacks are a function of the seed; what the devices find of them, while two CPUs race, is not.

mod accel;
mod arena;
mod attack;
mod blind;
mod chain;
mod driver;
mod kind;
mod mutate;
mod proof;
mod requests;
mod rings;
pub mod score;
mod send;

use super::{Crew, Machine, Tally};
use crate::clock::cycles;
use crate::math::permutation::Permutation;
use crate::memory::{PAGE_SIZE, PAGE_WORDS};
use crate::pattern::Pattern;
use crate::plan::Target;
use crate::virtio::Fault;
use crate::virtio::registers::{DEVICE_ID, MAGIC, MAGIC_VALUE, Registers};
use arena::{ATTACKERS, Arena};
use attack::Attack;
use core::ops::Range;
use driver::Driver;
use gmem_wire::layout::{MMIO_START, VIRTIO_DEVICES};
use kind::Kind;
use score::Failure;

/// Pages that the workload cannot do without.
pub const LEAST_PAGES: u64 = arena::PAGES + 1;
/// Percent of rounds after which is seen whether a reset device has stopped writing.
const LOOKS: u64 = 30;
/// After so many failures a CPU goes on to the next device.
const ENOUGH: u64 = 3;
/// Pages of other memory that are checked after each round.
const GLANCE: u64 = 16;

/// The microVM's devices.
struct Present {
    kinds: [Option<Kind>; VIRTIO_DEVICES],
    /// Memory that may be plugged in.
    pluggable: Range<u64>,
}

impl Present {
    fn find<M: Machine>(machine: &M) -> Self {
        let mut kinds = [None; VIRTIO_DEVICES];
        let mut pluggable = 0..0;
        for (number, kind) in kinds.iter_mut().enumerate().take(machine.devices()) {
            let registers = Registers::new(machine, number);
            if registers.read(MAGIC) == MAGIC_VALUE {
                *kind = Kind::of(registers.read(DEVICE_ID));
            }
            if *kind == Some(Kind::Mem) {
                let start = registers.config(16);
                pluggable = start..start + registers.config(24);
            }
        }
        Self { kinds, pluggable }
    }

    /// Numbers of the devices that `wanted` wants.
    fn numbers(&self, wanted: impl Fn(usize, Kind) -> bool) -> Numbers {
        let mut numbers = Numbers::default();
        for (number, kind) in self.kinds.iter().enumerate() {
            if kind.is_some_and(|kind| wanted(number, kind)) {
                numbers.all[numbers.count] = number;
                numbers.count += 1;
            }
        }
        numbers
    }
}

/// Some devices, by number.
#[derive(Default)]
struct Numbers {
    all: [usize; VIRTIO_DEVICES],
    count: usize,
}

impl Numbers {
    fn as_slice(&self) -> &[usize] {
        &self.all[..self.count]
    }
}

/// What a CPU does while a device is attacked.
struct Bout<'a, 'c, M> {
    crew: &'a Crew<'c, M>,
    arena: Arena<'c>,
    pluggable: Range<u64>,
    /// The device that this CPU attacks.
    number: usize,
    kind: Kind,
    /// It attacks alone, so that it may ask for good service in between.
    alone: bool,
    round: u64,
}

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, rounds: u64, target: Target, tally: &mut Tally) {
    let fail = |tally: &mut Tally, what| {
        let device = target.name();
        if crew.cpu == 0 {
            tally.hostile.fail(Failure {
                device,
                what,
                round: 0,
                cpu: 0,
            });
        }
    };
    let Some(arena) = Arena::new(crew.set).filter(|arena| arena.end() <= MMIO_START) else {
        return fail(tally, "wants memory in one piece, below 3 GiB");
    };
    let present = Present::find(crew.machine);
    let targets = present.numbers(|_, kind| kind.is(target));
    if targets.count == 0 {
        return fail(tally, "the microVM has no such device");
    }
    let others = crew.share(arena.first, crew.cpu);
    tally.warmup_cycles += crew.timed(|| fill(crew, others.clone()));
    tally.timed_cycles += crew.timed(|| {
        let attackers = crew.cpus.min(ATTACKERS).min(targets.count.max(2));
        // Another order for each seed, so that others are attacked at the same time.
        let order = Permutation::new(targets.count as u64, crew.plan.seed, 0);
        for bout in 0..targets.count {
            let attacked = |cpu: usize| {
                let place = (bout + cpu) % targets.count;
                targets.as_slice()[order.get(place as u64) as usize]
            };
            let all = (0..attackers).map(attacked);
            let free = present.numbers(|number, _| all.clone().all(|other| other != number));
            let alone = targets.count > 1 || attackers == 1;
            let bout = present.kinds[attacked(crew.cpu)].map(|kind| Bout {
                crew,
                arena,
                pluggable: present.pluggable.clone(),
                number: attacked(crew.cpu),
                kind,
                alone,
                round: 0,
            });
            if let Some(mut bout) = bout {
                if crew.cpu < attackers {
                    let witness = free.as_slice().get(crew.cpu).copied();
                    let witness = witness.and_then(|number| Some((number, present.kinds[number]?)));
                    bout.run(rounds, witness, others.clone(), tally);
                }
                crew.machine.barrier();
                if !alone && crew.cpu == 0 {
                    bout.recover(&mut bout.driver(), tally);
                }
            }
            crew.machine.barrier();
        }
    });
    if crew.cpu == 0 {
        tally.hostile.devices += targets.count as u64;
    }
    tally.ops += tally.hostile.attacks;
    check(crew, crew.share(arena.first, crew.cpu), tally);
}

impl<'c, M: Machine> Bout<'_, 'c, M> {
    /// Attacks the device in `rounds` rounds, and sees that nothing else suffers.
    fn run(
        &mut self,
        rounds: u64,
        witness: Option<(usize, Kind)>,
        others: Range<u64>,
        tally: &mut Tally,
    ) {
        let (crew, arena) = (self.crew, self.arena);
        let registers = Registers::new(crew.machine, self.number);
        let mut attack = Attack::new(crew, arena, self.pluggable.clone(), (registers, self.kind));
        let mut driver = self.driver();
        let mut witness = witness.map(|(number, kind)| {
            let registers = Registers::new(crew.machine, number);
            (Driver::new(crew, arena, registers, kind), kind)
        });
        attack.exclusive(|_| registers.reset());
        // What a device of another kind was told would be obeyed otherwise by this one.
        arena.clear_tables(crew.cpu);
        if let Some((witness, kind)) = &mut witness {
            let begun = witness.begin();
            self.expect(begun, *kind, tally);
        }
        let mut at = others.start;
        let start = cycles();
        for round in 0..rounds {
            self.round = round;
            attack.round(&mut tally.hostile);
            if crew.cpus == 1 && attack.chance(LOOKS) {
                let still = attack.reset_ends_all();
                self.expect(still, self.kind, tally);
            }
            if self.alone {
                self.recover(&mut driver, tally);
            }
            if let Some((witness, kind)) = &mut witness {
                let asked = cycles();
                let proven = witness.prove(&mut tally.hostile);
                let took = cycles().saturating_sub(asked);
                let score = &mut tally.hostile;
                score.beside += u64::from(proven.is_ok());
                score.beside_cycles = score.beside_cycles.max(took);
                self.expect(proven, *kind, tally);
            }
            let glance = at..(at + GLANCE).min(others.end);
            at = if glance.end == others.end {
                others.start
            } else {
                glance.end
            };
            check(crew, glance, tally);
            if tally.hostile.failures >= ENOUGH {
                break;
            }
            let now = cycles();
            if crew.line_due(now) {
                crew.machine.line(format_args!(
                    "guest: hostile {} round {round} of {rounds}, {:.0} rounds/s",
                    self.kind.name(),
                    crew.rate(round, start, now),
                ));
            }
        }
        attack.exclusive(|_| registers.reset());
        if let Some((witness, _)) = witness {
            witness.registers.reset();
        }
    }

    fn driver(&self) -> Driver<'c, M> {
        let registers = Registers::new(self.crew.machine, self.number);
        Driver::new(self.crew, self.arena, registers, self.kind)
    }

    /// Resets the attacked device: it must work.
    fn recover(&self, driver: &mut Driver<'c, M>, tally: &mut Tally) {
        let recovered = driver
            .begin()
            .and_then(|()| driver.prove(&mut tally.hostile));
        tally.hostile.recoveries += u64::from(recovered.is_ok());
        self.expect(recovered, self.kind, tally);
    }

    fn expect(&self, result: Result<(), Fault>, kind: Kind, tally: &mut Tally) {
        if let Err(what) = result {
            tally.hostile.fail(Failure {
                device: kind.name(),
                what,
                round: self.round,
                cpu: self.crew.cpu as u64,
            });
        }
    }
}

fn fill<M: Machine>(crew: &Crew<'_, M>, pages: Range<u64>) {
    for index in pages {
        pattern(crew, index).write(crew.set.page(index), 0..PAGE_WORDS);
    }
}

fn check<M: Machine>(crew: &Crew<'_, M>, pages: Range<u64>, tally: &mut Tally) {
    for index in pages {
        let address = crew.set.address(index);
        let page = crew.set.page(index);
        pattern(crew, index).check(page, 0..PAGE_WORDS, address, &mut |found| {
            tally.mismatch(found);
        });
        tally.compared += PAGE_SIZE;
    }
}

fn pattern<M: Machine>(crew: &Crew<'_, M>, index: u64) -> Pattern {
    Pattern::new(crew.plan.fill, crew.plan.seed, crew.set.address(index), 0)
}

#[cfg(test)]
mod tests;
