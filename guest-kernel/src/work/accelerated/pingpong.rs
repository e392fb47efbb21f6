//! `pingpong`: vCPUs and accelerators add to words of the same memory, none much faster than another, so that its pages take
//! turns between them. In the end no addition is lost.
//!
//! Additions come in bursts. An accelerator's is one command, whose words lie evenly spread over all of the data, each time
//! others; a vCPU's is a few pages at random, and random words of each.

use super::team::{Own, Shared, Team, Trouble, of};
use super::{FIRST_CPU, Machine, Tally};
use crate::accel::stream::DEPTH;
use crate::accel::xpu::{WORK, Xpu, carried_out};
use crate::clock::cycles;
use crate::math::random::Random;
use crate::memory::{PAGE_SIZE, PAGE_WORDS};
use core::hint::spin_loop;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use gmem_wire::xpu::op;

/// How many bursts a vCPU may be ahead of the accelerators.
const AHEAD: u64 = 16;
/// Additions of a burst by a vCPU to one page after the other, at most.
const RUN: u64 = 64;

pub(super) fn run<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    burst: u64,
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
    tally.timed_cycles += team.phase(tally, |tally| add(team, own, burst, tally))?;
    team.locate(own, tally)?;
    team.phase(tally, |tally| {
        for index in team.pages(team.crew.cpu + 1) {
            for word in team.crew.set.page(index) {
                tally.counted = tally.counted.wrapping_add(word.load(Acquire));
            }
            tally.compared += PAGE_SIZE;
        }
        Ok(())
    })?;
    Some(())
}

/// One who adds: how much is left, how much at once, and where to.
struct Adder {
    left: u64,
    burst: u64,
    random: Random,
}

/// A burst of an accelerator: so many words, so many bytes apart.
struct Spread {
    at: u64,
    count: u64,
    stride: u64,
}

impl Adder {
    /// Number `number` of `all`.
    fn new<M: Machine>(team: &Team<'_, '_, M>, burst: u64, (number, all): (u64, u64)) -> Self {
        let ops = team.crew.plan.timed_bound().ops;
        Self {
            left: ops / all + u64::from(number < ops % all),
            burst,
            random: Random::new(team.crew.plan.seed, FIRST_CPU + number),
        }
    }

    /// Takes the next burst: how many additions it has.
    fn take(&mut self) -> u64 {
        let count = self.left.min(self.burst);
        self.left -= count;
        count
    }

    /// An accelerator's next burst.
    fn spread<M: Machine>(&mut self, team: &Team<'_, '_, M>) -> Spread {
        let words = team.layout.data_bytes() / 8;
        let count = self.take();
        // A burst is never more than there are words.
        let stride = words / count.max(1);
        Spread {
            at: team.layout.data + 8 * self.random.below(words - count.saturating_sub(1) * stride),
            count,
            stride: 8 * stride,
        }
    }

    /// A vCPU's next burst; how many additions it had.
    fn add<M: Machine>(&mut self, team: &Team<'_, '_, M>, tally: &mut Tally) -> u64 {
        let count = self.take();
        let mut page = 0;
        for number in 0..count {
            if number % RUN == 0 {
                page = self.random.below(team.layout.data_pages);
            }
            let word = self.random.below(PAGE_WORDS as u64);
            let at = team.layout.data + page * PAGE_SIZE + 8 * word;
            let before = cycles();
            team.ram.word(at).fetch_add(1, AcqRel);
            tally.access(cycles().saturating_sub(before), team.crew.threshold);
        }
        count
    }
}

fn add<M: Machine>(
    team: &Team<'_, '_, M>,
    own: &mut Own<'_, M>,
    burst: u64,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let crew = team.crew;
    let (cpus, count) = (crew.cpus as u64, team.accelerators() as u64);
    let adder = |number: u64| Adder::new(team, burst, (number, cpus + count));
    let mut mine = adder(crew.cpu as u64);
    let mut theirs: [_; gmem_wire::layout::VIRTIO_DEVICES] =
        core::array::from_fn(|number| adder(cpus + number as u64));
    // How many additions the commands in flight have, each at its ticket.
    let mut sent = [[0; DEPTH as usize]; gmem_wire::layout::VIRTIO_DEVICES];
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
            let (adder, sent) = (&mut theirs[number], &mut sent[number]);
            moved |= collect(team, (number, xpu), sent, tally)?;
            if adder.left > 0 && !over && xpu.in_flight(WORK) < DEPTH {
                let spread = adder.spread(team);
                let ticket = send(xpu, &spread).map_err(of(number))?;
                sent[(ticket % DEPTH) as usize] = spread.count;
                tally.writes += spread.count;
                moved = true;
            }
            in_flight += xpu.in_flight(WORK) + u64::from(!over) * adder.left;
        }
        // Whoever has nothing to wait for any more need not keep step.
        let done = team.shared(Shared::Done).load(Relaxed) / count;
        let last = done >= adder(cpus + count - 1).left;
        if mine.left > 0 && !over && (added < done + AHEAD * burst || last) {
            let count = mine.add(team, tally);
            tally.writes += count;
            tally.ops += count;
            added += count;
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

/// Sends a burst as one command; its ticket.
fn send<M: Machine>(xpu: &mut Xpu<'_, M>, spread: &Spread) -> Result<u64, crate::virtio::Fault> {
    let &Spread { at, count, stride } = spread;
    match count {
        1 => xpu.submit(WORK, op::ATOMIC_ADD, &[at, 1]),
        _ => xpu.submit(WORK, op::ATOMIC_ADDS, &[at, count, stride, 1]),
    }
}

/// Takes the answers that are there; whether there was any.
fn collect<M: Machine>(
    team: &Team<'_, '_, M>,
    (number, xpu): (usize, &mut Xpu<'_, M>),
    sent: &[u64; DEPTH as usize],
    tally: &mut Tally,
) -> Result<bool, Trouble> {
    let mut came = false;
    while let Some(answer) = xpu.poll(WORK).map_err(of(number))? {
        carried_out(&answer).map_err(of(number))?;
        tally.accel.latencies.record(answer.cycles);
        let count = sent[(answer.ticket % DEPTH) as usize];
        tally.ops += count;
        team.shared(Shared::Done).fetch_add(count, Relaxed);
        came = true;
    }
    Ok(came)
}
