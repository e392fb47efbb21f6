//! `scan`, `stride`, `uniform`, `zipf`, `hotscan`, `phase`: operations of one page each, in the order that a
//! generator gives.

use super::generator::Generator;
use super::{Crew, Machine, Tally, tagged};
use crate::clock::cycles;
use crate::plan::Bound;

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, mut generator: Generator, tally: &mut Tally) {
    let warmup = crew.plan.warmup_bound(crew.set.pages());
    tally.warmup_cycles += crew.timed(|| tagged::initialise(crew));
    tally.warmup_cycles += crew.timed(|| {
        operate(crew, &mut generator, ("warm-up", warmup), tally, |_, _| {});
    });
    tally.timed_cycles += crew.timed(|| {
        let timed = ("timed", crew.plan.timed_bound());
        let ops = operate(crew, &mut generator, timed, tally, |tally, latency| {
            tally.access(latency, crew.threshold);
        });
        tally.ops += ops;
    });
    tagged::check(crew, tally);
}

/// Operations up to a bound; returns how many. An operation's latency runs from the end of the one before, so
/// that the clock is read once: choosing the page is part of it, tens of nanoseconds.
#[inline(always)]
fn operate<M: Machine>(
    crew: &Crew<'_, M>,
    generator: &mut Generator,
    (what, bound): (&str, Bound),
    tally: &mut Tally,
    observe: impl Fn(&mut Tally, u64),
) -> u64 {
    let share = crew.share(bound.ops, crew.cpu);
    let wanted = share.end - share.start;
    let start = cycles();
    let limit = bound.seconds.map_or(u64::MAX, |seconds| {
        crew.frequency.cycles(seconds.saturating_mul(1_000_000))
    });
    let mut before = start;
    for done in 0..wanted {
        let write = generator.chance(crew.plan.write_percent);
        tagged::touch(crew, generator.next(), write, tally);
        let now = cycles();
        observe(tally, now.saturating_sub(before));
        before = now;
        let elapsed = now.saturating_sub(start);
        if elapsed > limit {
            return done + 1;
        }
        if crew.line_due(now) {
            let by_ops = done as f64 / wanted as f64;
            let by_time = elapsed as f64 / limit as f64;
            crew.machine.line(format_args!(
                "guest: {} {what} {:.0}% {:.3} Mop/s",
                crew.plan.name,
                by_ops.max(by_time) * 100.0,
                crew.rate(done, start, now) / 1e6,
            ));
            before = cycles();
        }
    }
    wanted
}
