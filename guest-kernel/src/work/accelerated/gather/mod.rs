//! `gather`: accelerators look up rows of a table that fills the memory, batch by batch; in the last row of each page is a
//! counter instead, which vCPUs and accelerators increment.

mod desk;
mod law;

pub(super) use law::Shape;

use super::team::{Own, Shared, Team, Trouble, of};
use super::{FIRST_CPU, Machine, Tally};
use crate::accel::xpu::WORK;
use crate::clock::cycles;
use crate::math::random::Random;
use crate::memory::{PAGE_SIZE, PAGE_WORDS};
use crate::pattern::Pattern;
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use desk::{NOTHING, PART, collect, fill};
use gmem_wire::gmem::advice;
use law::Law;

/// Word of a page that counts: the first of the last 64 bytes.
const COUNTER: usize = PAGE_WORDS - 8;
pub(super) fn run<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    shape: Shape,
    hints: bool,
    tally: &mut Tally,
) -> Option<()> {
    let law = Law::new(team, shape);
    tally.accel.parts = law.all;
    tally.warmup_cycles += team.phase(tally, |_| {
        initialise(team);
        if team.crew.cpu == 0 {
            let ops = team.crew.plan.timed_bound().ops;
            team.shared(Shared::Left).store(ops, Relaxed);
        }
        Ok(())
    })?;
    team.phase(tally, |tally| super::measure::run(team, own, tally))?;
    if hints {
        tally.warmup_cycles += team.phase(tally, |_| prefetch(team, &law, own))?;
    }
    tally.timed_cycles += team.phase(tally, |tally| look_up(team, &law, own, tally))?;
    team.locate(own, tally)?;
    team.phase(tally, |tally| {
        check(team, tally);
        Ok(())
    })?;
    Some(())
}

fn pattern<M: Machine>(team: &Team<'_, '_, M>, page: u64) -> Pattern {
    let (plan, set) = (team.crew.plan, team.crew.set);
    Pattern::new(plan.fill, plan.seed, set.address(page), 0)
}

fn initialise<M: Machine>(team: &Team<'_, '_, M>) {
    for index in team.pages(team.crew.cpu) {
        let page = team.crew.set.page(index);
        pattern(team, index).write(page, 0..PAGE_WORDS);
        page[COUNTER].store(0, Relaxed);
    }
}

/// Pages of the rows that will be wanted most, up to half of each accelerator's memory.
fn prefetch<M: Machine>(
    team: &Team<'_, '_, M>,
    law: &Law,
    own: &mut Own<'_, M>,
) -> Result<(), Trouble> {
    let count = team.accelerators() as u64;
    for (number, xpu) in own.iter_mut().enumerate() {
        let Some(xpu) = xpu else { continue };
        let most = (xpu.memory / 2 / xpu.granule.max(PAGE_SIZE)).min(team.layout.data_pages);
        for rank in (number as u64..most * count).step_by(count as usize) {
            let (page, _) = law.row(rank % law.all);
            let at = team.layout.data + page * PAGE_SIZE;
            xpu.patient_hint(at, PAGE_SIZE, advice::PREFETCH)
                .map_err(of(number))?;
        }
        xpu.finish_hints().map_err(of(number))?;
    }
    Ok(())
}

/// The timed phase.
fn look_up<M: Machine>(
    team: &Team<'_, '_, M>,
    law: &Law,
    own: &mut Own<'_, M>,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let crew = team.crew;
    let mut random = Random::new(crew.plan.seed, FIRST_CPU + crew.cpu as u64);
    let mut desks = [NOTHING; gmem_wire::layout::VIRTIO_DEVICES];
    let limit = crew.plan.timed_bound().seconds.map_or(u64::MAX, |seconds| {
        crew.frequency.cycles(seconds.saturating_mul(1_000_000))
    });
    let start = cycles();
    let (mut before, mut writes) = (start, 0);
    loop {
        let mut moved = false;
        let over = before.saturating_sub(start) > limit;
        let mut in_flight = 0;
        for (number, xpu) in own.iter_mut().enumerate() {
            let Some(xpu) = xpu else { continue };
            let desk = &mut desks[number];
            moved |= collect(team, law, (number, xpu), desk, tally)?;
            if !over {
                moved |= fill(team, law, (number, xpu), desk, &mut random, tally)?;
            }
            in_flight += xpu.in_flight(WORK);
        }
        let begun = team.shared(Shared::Begun).load(Relaxed);
        let due = begun.saturating_mul(crew.plan.write_percent) / PART / crew.cpus as u64;
        if writes < due && !over {
            write(team, law, &mut random, tally);
            writes += 1;
            moved = true;
        }
        let left = team.shared(Shared::Left).load(Acquire);
        if team.stopped() || in_flight == 0 && (over || left == 0 && writes >= due) {
            return Ok(());
        }
        let now = cycles();
        if !moved {
            spin_loop();
            let waits = in_flight > 0;
            tally.accel.waited_cycles += u64::from(waits) * now.saturating_sub(before);
        }
        before = now;
        if crew.line_due(now) {
            crew.machine.line(format_args!(
                "guest: gather {begun} rows, {:.3} Mrow/s",
                begun as f64 / crew.frequency.seconds(now.saturating_sub(start)) / 1e6,
            ));
        }
    }
}

/// An increment by this CPU.
fn write<M: Machine>(team: &Team<'_, '_, M>, law: &Law, random: &mut Random, tally: &mut Tally) {
    let (page, _) = law.draw(random);
    let before = cycles();
    team.crew.set.page(page)[COUNTER].fetch_add(1, AcqRel);
    tally.access(cycles().saturating_sub(before), team.crew.threshold);
    tally.writes += 1;
}

/// Compares another CPU's pages, and sums up their counters.
fn check<M: Machine>(team: &Team<'_, '_, M>, tally: &mut Tally) {
    for index in team.pages(team.crew.cpu + 1) {
        let (page, address) = (team.crew.set.page(index), team.crew.set.address(index));
        let pattern = pattern(team, index);
        let mut wrong = |found| tally.mismatch(found);
        pattern.check(page, 0..COUNTER, address, &mut wrong);
        pattern.check(page, COUNTER + 1..PAGE_WORDS, address, &mut wrong);
        tally.counted = tally.counted.wrapping_add(page[COUNTER].load(Acquire));
        tally.compared += PAGE_SIZE - 8;
    }
}
