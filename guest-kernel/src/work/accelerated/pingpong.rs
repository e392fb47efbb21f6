//! `pingpong`: vCPUs and accelerators add to words of the same memory, none much faster than another, so that its pages take
//! turns between them. In the end no addition is lost.

use super::team::{Own, Shared, Team, Trouble, of};
use super::{FIRST_CPU, Machine, Tally};
use crate::accel::stream::DEPTH;
use crate::accel::xpu::{WORK, Xpu, carried_out};
use crate::clock::cycles;
use crate::math::random::Random;
use crate::memory::PAGE_WORDS;
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use gmem_wire::xpu::op;

/// How many additions a vCPU may be ahead of the accelerators.
const AHEAD: u64 = 16;

pub(super) fn run<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    tally: &mut Tally,
) -> Option<()> {
    tally.warmup_cycles += team.phase(tally, |_| {
        for index in team.pages(team.crew.cpu) {
            for word in team.crew.set.page(index) {
                word.store(0, Relaxed);
            }
        }
        Ok(())
    })?;
    team.phase(tally, |tally| super::measure::run(team, own, tally))?;
    tally.timed_cycles += team.phase(tally, |tally| add(team, own, tally))?;
    team.locate(own, tally)?;
    team.phase(tally, |tally| {
        for index in team.pages(team.crew.cpu + 1) {
            for word in team.crew.set.page(index) {
                tally.counted = tally.counted.wrapping_add(word.load(Acquire));
            }
            tally.compared += crate::memory::PAGE_SIZE;
        }
        Ok(())
    })?;
    Some(())
}

/// One who adds: how much is left, and where to.
struct Adder {
    left: u64,
    random: Random,
}

impl Adder {
    /// Number `number` of `all`.
    fn new<M: Machine>(team: &Team<'_, '_, M>, number: u64, all: u64) -> Self {
        let ops = team.crew.plan.timed_bound().ops;
        Self {
            left: ops / all + u64::from(number < ops % all),
            random: Random::new(team.crew.plan.seed, FIRST_CPU + number),
        }
    }

    /// Where to add next.
    fn next<M: Machine>(&mut self, team: &Team<'_, '_, M>) -> u64 {
        self.left -= 1;
        let words = team.layout.data_pages * PAGE_WORDS as u64;
        team.layout.data + 8 * self.random.below(words)
    }
}

fn add<M: Machine>(
    team: &Team<'_, '_, M>,
    own: &mut Own<'_, M>,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let crew = team.crew;
    let (cpus, count) = (crew.cpus as u64, team.accelerators() as u64);
    let adder = |number: u64| Adder::new(team, number, cpus + count);
    let mut mine = adder(crew.cpu as u64);
    let mut theirs: [_; gmem_wire::layout::VIRTIO_DEVICES] =
        core::array::from_fn(|number| adder(cpus + number as u64));
    let limit = crew.plan.timed_bound().seconds.map_or(u64::MAX, |seconds| {
        crew.frequency.cycles(seconds.saturating_mul(1_000_000))
    });
    let start = cycles();
    let (mut before, mut added) = (start, 0);
    loop {
        let over = before.saturating_sub(start) > limit;
        let (mut moved, mut in_flight) = (false, 0);
        for (number, xpu) in own.iter_mut().enumerate() {
            let Some(xpu) = xpu else { continue };
            moved |= collect(team, (number, xpu), tally)?;
            let adder = &mut theirs[number];
            if adder.left > 0 && !over && xpu.in_flight(WORK) < DEPTH {
                let at = adder.next(team);
                xpu.submit(WORK, op::ATOMIC_ADD, &[at, 1])
                    .map_err(of(number))?;
                tally.writes += 1;
                moved = true;
            }
            in_flight += xpu.in_flight(WORK) + u64::from(!over) * adder.left;
        }
        // Whoever has nothing to wait for any more need not keep step.
        let done = team.shared(Shared::Done).load(Relaxed) / count;
        let last = done >= adder(cpus + count - 1).left;
        if mine.left > 0 && !over && (added < done + AHEAD || last) {
            let at = mine.next(team);
            let before = cycles();
            team.ram.word(at).fetch_add(1, AcqRel);
            tally.access(cycles().saturating_sub(before), crew.threshold);
            tally.writes += 1;
            tally.ops += 1;
            added += 1;
            moved = true;
        }
        if team.stopped() || in_flight == 0 && (over || mine.left == 0) {
            return Ok(());
        }
        let now = cycles();
        if !moved {
            spin_loop();
            tally.accel.waited_cycles += now.saturating_sub(before);
        }
        before = now;
        if crew.line_due(now) {
            crew.machine.line(format_args!(
                "guest: pingpong {added} additions by CPU 0, {done} by each accelerator"
            ));
        }
    }
}

fn collect<M: Machine>(
    team: &Team<'_, '_, M>,
    (number, xpu): (usize, &mut Xpu<'_, M>),
    tally: &mut Tally,
) -> Result<bool, Trouble> {
    let mut came = false;
    while let Some(answer) = xpu.poll(WORK).map_err(of(number))? {
        carried_out(&answer).map_err(of(number))?;
        tally.accel.latencies.record(answer.cycles);
        tally.ops += 1;
        team.shared(Shared::Done).fetch_add(1, Relaxed);
        came = true;
    }
    Ok(came)
}
