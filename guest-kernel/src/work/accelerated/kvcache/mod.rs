//! `kvcache`: sequences grow by a token a step, whose key and value a vCPU writes, and an accelerator attends to the whole
//! sequence. Each sequence is one accelerator's. A sequence that is full begins anew.

mod cache;
mod step;

pub(super) use cache::least;

use super::team::{Own, Shared, Team, Trouble};
use super::{FIRST_CPU, Machine, Tally};
use crate::clock::cycles;
use crate::math::random::Random;
use cache::{Cache, State};
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use step::Steps;

/// Sequences, and what is done with them.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) sequences: Option<u64>,
    pub(super) width: u64,
    pub(super) theta: f64,
    /// Each such answer is checked.
    pub(super) check: u64,
    pub(super) hints: bool,
}

pub(super) fn run<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    shape: Shape,
    tally: &mut Tally,
) -> Option<()> {
    let cache = Cache::new(team, shape.sequences, shape.width);
    tally.accel.parts = cache.sequences;
    tally.warmup_cycles += team.phase(tally, |_| {
        initialise(team, &cache);
        Ok(())
    })?;
    team.phase(tally, |tally| super::measure::run(team, own, tally))?;
    tally.timed_cycles += team.phase(tally, |tally| match own.iter().any(Option::is_some) {
        true => drive(team, own, Steps::new(team, cache, shape), tally),
        false => {
            read(team, &cache, tally);
            Ok(())
        }
    })?;
    team.locate(own, tally)?;
    team.phase(tally, |tally| {
        compare(team, &cache, tally);
        Ok(())
    })?;
    Some(())
}

/// Writes this CPU's share of sequences, half as long as they may become.
fn initialise<M: Machine>(team: &Team<'_, '_, M>, cache: &Cache) {
    let crew = team.crew;
    if crew.cpu == 0 {
        let ops = crew.plan.timed_bound().ops;
        team.shared(Shared::Left).store(ops, Relaxed);
    }
    for sequence in crew.share(cache.sequences, crew.cpu) {
        let tokens = cache.room / 2;
        for token in 0..tokens {
            cache.write(team, sequence, (0, token));
        }
        let state = State {
            life: 0,
            tokens: tokens as u32,
        };
        cache.state(team, sequence).store(state.word(), Release);
    }
}

/// Steps of this CPU's accelerators, all at the same time.
fn drive<M: Machine>(
    team: &Team<'_, '_, M>,
    own: &mut Own<'_, M>,
    mut steps: Steps,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let (crew, start) = (team.crew, cycles());
    let limit = limit(team);
    loop {
        let now = cycles();
        if team.stopped() || now.saturating_sub(start) > limit {
            return Ok(());
        }
        let mut begun = 0;
        for (number, xpu) in own.iter_mut().enumerate() {
            if let Some(xpu) = xpu
                && claim(team)
            {
                steps.begin(team, number, xpu)?;
                begun += 1;
            }
        }
        for (number, xpu) in own.iter_mut().enumerate() {
            if let Some(xpu) = xpu {
                steps.end(team, number, xpu, tally)?;
            }
        }
        if begun == 0 {
            return Ok(());
        }
        tally.ops += begun;
        let done = team.shared(Shared::Done).fetch_add(begun, Relaxed) + begun;
        if crew.line_due(now) {
            crew.machine.line(format_args!(
                "guest: kvcache {done} steps, {:.1} steps/s",
                done as f64 / crew.frequency.seconds(now.saturating_sub(start)).max(1e-9),
            ));
        }
    }
}

/// Whether there is a step left, which then is the caller's.
fn claim<M: Machine>(team: &Team<'_, '_, M>) -> bool {
    let left = team.shared(Shared::Left);
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
        .is_ok()
}

fn limit<M: Machine>(team: &Team<'_, '_, M>) -> u64 {
    let crew = team.crew;
    crew.plan.timed_bound().seconds.map_or(u64::MAX, |seconds| {
        crew.frequency.cycles(seconds.saturating_mul(1_000_000))
    })
}

/// A CPU without an accelerator reads tokens that are there already, one for each step of the others.
fn read<M: Machine>(team: &Team<'_, '_, M>, cache: &Cache, tally: &mut Tally) {
    let crew = team.crew;
    let mut random = Random::new(crew.plan.seed, FIRST_CPU + crew.cpu as u64);
    let (start, limit) = (cycles(), limit(team));
    let mut read = 0;
    while !team.stopped() && team.shared(Shared::Left).load(Relaxed) > 0 {
        let now = cycles();
        if now.saturating_sub(start) > limit {
            return;
        }
        if read == team.shared(Shared::Done).load(Relaxed) {
            spin_loop();
            continue;
        }
        read += 1;
        let sequence = random.below(cache.sequences);
        let word = cache.state(team, sequence);
        let State { life, tokens } = State::of(word.load(Acquire));
        if tokens > 0 {
            let token = random.below(tokens.into());
            let valid = || State::of(word.load(Acquire)).life == life;
            let before = cycles();
            cache.compare(team, sequence, (life, token), valid, tally);
            tally.access(cycles().saturating_sub(before), crew.threshold);
        }
    }
}

/// Compares another CPU's share of sequences.
fn compare<M: Machine>(team: &Team<'_, '_, M>, cache: &Cache, tally: &mut Tally) {
    let crew = team.crew;
    for sequence in crew.share(cache.sequences, (crew.cpu + 1) % crew.cpus) {
        let State { life, tokens } = State::of(cache.state(team, sequence).load(Acquire));
        for token in 0..u64::from(tokens) {
            cache.compare(team, sequence, (life, token), || true, tally);
        }
    }
}
