//! `faults`: one access to every page, in an order that nothing can predict, each one timed alone. In memory
//! several times larger than what is resident nearly each access is a fault.

use super::{Crew, Machine, Tally, tagged};
use crate::clock::cycles;
use crate::math::permutation::Permutation;
use crate::math::random::Random;

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, passes: u64, tally: &mut Tally) {
    tally.warmup_cycles += crew.timed(|| tagged::initialise(crew));
    tally.timed_cycles += crew.timed(|| {
        let share = crew.share(crew.plan.ops.unwrap_or(u64::MAX), crew.cpu);
        let mut left = share.end - share.start;
        for pass in 0..passes {
            left -= one_pass(crew, (pass, passes), left, tally);
        }
    });
    tagged::check(crew, tally);
}

/// At most `limit` accesses; returns how many.
fn one_pass<M: Machine>(crew: &Crew<'_, M>, of: (u64, u64), limit: u64, tally: &mut Tally) -> u64 {
    let order = Permutation::new(crew.set.pages(), crew.plan.seed, of.0);
    let mut random = Random::new(crew.plan.seed, (of.0 << 16) | crew.cpu as u64);
    let share = crew.own_pages();
    let wanted = (share.end - share.start).min(limit);
    let start = cycles();
    for done in 0..wanted {
        let index = order.get(share.start + done);
        let write = random.below(100) < crew.plan.write_percent;
        let before = cycles();
        tagged::touch(crew, index, write, tally);
        let now = cycles();
        tally.access(now.saturating_sub(before), crew.threshold);
        if crew.line_due(now) {
            crew.machine.line(format_args!(
                "guest: faults pass {}/{} {}% {:.1} kop/s",
                of.0 + 1,
                of.1,
                done * 100 / wanted,
                crew.rate(done, start, now) / 1e3,
            ));
        }
    }
    tally.ops += wanted;
    wanted
}
