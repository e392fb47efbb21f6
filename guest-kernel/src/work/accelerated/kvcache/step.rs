//! A step of a sequence: a token is appended, an accelerator attends, and a CPU sees whether it found the same bits.

use super::super::layout::GRANULE;
use super::super::team::{Team, Trouble, of};
use super::super::{FIRST_CPU, Machine, Tally};
use super::Shape;
use super::cache::{Cache, Half, State, WIDEST, two};
use crate::accel::xpu::{WORK, Xpu};
use crate::clock::cycles;
use crate::math::float::{exp, ln};
use crate::math::random::{Random, mix};
use crate::math::zipf::Zipf;
use crate::pattern::Mismatch;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use gmem_wire::gmem::advice;
use gmem_wire::layout::VIRTIO_DEVICES;
use gmem_wire::xpu::op;
use gmem_work::Attention;

/// A sequence under way.
#[derive(Clone, Copy)]
struct Step {
    sequence: u64,
    state: State,
    /// Seed of the query.
    query: u64,
    checked: bool,
}

/// Steps of a CPU's accelerators, one of each at a time.
pub(super) struct Steps {
    cache: Cache,
    shape: Shape,
    random: Random,
    scale: f32,
    /// Steps begun.
    count: u64,
    /// What is under way, and which sequence comes next.
    under_way: [Option<Step>; VIRTIO_DEVICES],
    next: [Option<u64>; VIRTIO_DEVICES],
}

impl Steps {
    pub(super) fn new<M: Machine>(team: &Team<'_, '_, M>, cache: Cache, shape: Shape) -> Self {
        let stream = FIRST_CPU + team.crew.cpu as u64;
        // One by the root of the number of dimensions.
        let scale = exp(-0.5 * ln((shape.width / 4) as f64)) as f32;
        Self {
            cache,
            shape,
            random: Random::new(team.crew.plan.seed, stream),
            scale,
            count: 0,
            under_way: [None; VIRTIO_DEVICES],
            next: [None; VIRTIO_DEVICES],
        }
    }

    /// A sequence of accelerator `number`.
    fn pick<M: Machine>(&mut self, team: &Team<'_, '_, M>, number: usize) -> u64 {
        let (number, all) = (number as u64, team.accelerators() as u64);
        let own = (self.cache.sequences - number).div_ceil(all);
        let rank = Zipf::new(own, self.shape.theta).sample(&mut self.random);
        rank * all + number
    }

    /// Appends a token to a sequence of accelerator `number`, and lets it attend.
    pub(super) fn begin<M: Machine>(
        &mut self,
        team: &Team<'_, '_, M>,
        number: usize,
        xpu: &mut Xpu<'_, M>,
    ) -> Result<(), Trouble> {
        let (cache, width) = (self.cache, self.cache.width);
        let sequence = match self.next[number].take() {
            Some(sequence) => sequence,
            None => self.pick(team, number),
        };
        let word = cache.state(team, sequence);
        let mut state = State::of(word.load(Acquire));
        let [keys, values] = [Half::Key, Half::Value].map(|half| cache.start(sequence, half));
        if u64::from(state.tokens) == cache.room {
            state = State {
                life: state.life.wrapping_add(1),
                tokens: 0,
            };
            // Before the bytes go: who reads them must know.
            word.store(state.word(), Release);
            if self.shape.hints {
                let args = [keys, 2 * cache.room * width, advice::FREE];
                xpu.ask(WORK, op::ADVISE, &args).map_err(of(number))?;
            }
        }
        cache.write(team, sequence, (state.life, state.tokens.into()));
        state.tokens += 1;
        word.store(state.word(), Release);

        let query = mix(team.crew.plan.seed ^ mix(self.count << 8 | number as u64));
        let (at, out) = places(team, number);
        for word in 0..width / 8 {
            team.ram.put64(at + 8 * word, two(query, word));
        }
        let scale = u64::from(self.scale.to_bits());
        let tokens = state.tokens.into();
        let args = [at, keys, values, tokens, width, scale, out];
        xpu.submit(WORK, op::ATTENTION, &args).map_err(of(number))?;
        self.under_way[number] = Some(Step {
            sequence,
            state,
            query,
            checked: self.count.is_multiple_of(self.shape.check),
        });
        self.count += 1;
        if self.shape.hints {
            let next = self.pick(team, number);
            self.next[number] = Some(next);
            let tokens = State::of(cache.state(team, next).load(Acquire)).tokens;
            for half in [Half::Key, Half::Value] {
                let (at, len) = (cache.start(next, half), u64::from(tokens) * width);
                let hint = xpu.hint(at, len, advice::PREFETCH);
                hint.map_err(of(number))?;
            }
        }
        Ok(())
    }

    /// Waits for the answer of accelerator `number`, if it is at work, and checks it.
    #[inline(never)]
    pub(super) fn end<M: Machine>(
        &mut self,
        team: &Team<'_, '_, M>,
        number: usize,
        xpu: &mut Xpu<'_, M>,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let Some(step) = self.under_way[number].take() else {
            return Ok(());
        };
        let mut expected = [0; WIDEST];
        let expected = &mut expected[..self.cache.width as usize];
        if step.checked {
            self.attend(&step, expected);
        }
        let start = cycles();
        let answer = xpu.wait(WORK).map_err(of(number))?;
        tally.accel.waited_cycles += cycles().saturating_sub(start);
        tally.accel.latencies.record(answer.cycles);
        if !step.checked {
            return Ok(());
        }
        let (_, out) = places(team, number);
        for (address, expected) in (out..).step_by(8).zip(expected.as_chunks().0) {
            let expected = u64::from_le_bytes(*expected);
            // Spoilt, so that the next answer cannot be this one.
            let found = team.ram.word(address).swap(!expected, AcqRel);
            if found != expected {
                tally.mismatch(Mismatch {
                    address,
                    expected,
                    found,
                });
            }
        }
        tally.compared += self.cache.width;
        Ok(())
    }

    /// What the answer must be, from tokens made anew.
    #[inline(never)]
    fn attend(&self, step: &Step, out: &mut [u8]) {
        let (mut query, mut key, mut value) = ([0; WIDEST], [0; WIDEST], [0; WIDEST]);
        let width = out.len();
        let query = &mut query[..width];
        for (at, word) in (0..).zip(query.as_chunks_mut().0) {
            *word = two(step.query, at).to_le_bytes();
        }
        let (key, value) = (&mut key[..width], &mut value[..width]);
        let State { life, tokens } = step.state;
        // Lengths are equal and whole elements.
        let Ok(mut attention) = Attention::new(query, self.scale, out) else {
            return;
        };
        for token in 0..tokens.into() {
            let sequence = step.sequence;
            self.cache.make(sequence, (life, token, Half::Key), key);
            self.cache.make(sequence, (life, token, Half::Value), value);
            let _ = attention.token(key, value);
        }
        attention.finish();
    }
}

/// Where an accelerator's query and answer are.
fn places<M: Machine>(team: &Team<'_, '_, M>, number: usize) -> (u64, u64) {
    let area = team.layout.area(number);
    (area, area + GRANULE)
}
