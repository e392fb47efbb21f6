//! The cache: keys and values of sequences, where they lie, and what is in them.

use super::super::layout::GRANULE;
use super::super::team::Team;
use super::super::{Machine, Tally};
use crate::math::random::mix;
use crate::pattern::Mismatch;
use core::sync::atomic::AtomicU64;

/// The widest key, bytes.
pub(super) const WIDEST: usize = 2048;
/// Bytes of the smallest sequence: two keys and two values of the widest.
const SMALLEST: u64 = 4 * WIDEST as u64;
/// Bytes of a sequence, if nobody says how many there are.
const USUAL: u64 = 1 << 20;

/// Bytes that so many sequences cannot do without.
pub(in super::super) fn least(sequences: u64) -> u64 {
    sequences
        .saturating_mul(SMALLEST + 8)
        .saturating_add(GRANULE)
}

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cache {
    pub(super) sequences: u64,
    /// Bytes of a key, and of a value.
    pub(super) width: u64,
    /// Tokens that a sequence has room for.
    pub(super) room: u64,
    seed: u64,
    states: u64,
    first: u64,
}

/// How far a sequence is: written by the CPU that drives its accelerator, read by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// How often it began anew.
    pub(super) life: u32,
    /// Tokens in the cache.
    pub(super) tokens: u32,
}

impl State {
    pub(super) fn of(word: u64) -> Self {
        Self {
            life: (word >> 32) as u32,
            tokens: word as u32,
        }
    }

    pub(super) fn word(self) -> u64 {
        u64::from(self.life) << 32 | u64::from(self.tokens)
    }
}

/// A part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Key,
    Value,
}

/// Two f32 of some seed: plus or minus 0.5 to 1.
pub(super) fn two(base: u64, at: u64) -> u64 {
    const RANDOM: u64 = 0x807f_ffff_807f_ffff;
    const EXPONENT: u64 = 0x3f00_0000_3f00_0000;
    mix(base.wrapping_add(at)) & RANDOM | EXPONENT
}

impl Cache {
    /// As many `sequences` as are wanted, or as is usual; at least one for each accelerator.
    pub(super) fn new<M: Machine>(
        team: &Team<'_, '_, M>,
        sequences: Option<u64>,
        width: u64,
    ) -> Self {
        let bytes = team.layout.data_bytes();
        let usual = (bytes / USUAL).max(1);
        let sequences = sequences.unwrap_or(usual).max(team.accelerators() as u64);
        let states = (8 * sequences).next_multiple_of(GRANULE);
        let room = (bytes - states) / sequences / (2 * width);
        Self {
            sequences,
            width,
            room: room.min(u32::MAX.into()),
            seed: team.crew.plan.seed,
            states: team.layout.data,
            first: team.layout.data + states,
        }
    }

    /// The state of a sequence.
    pub(super) fn state<'c, M: Machine>(
        &self,
        team: &Team<'_, 'c, M>,
        sequence: u64,
    ) -> &'c AtomicU64 {
        team.ram.word(self.states + 8 * sequence)
    }

    /// Where a sequence's keys or values begin.
    pub(super) fn start(&self, sequence: u64, half: Half) -> u64 {
        let number = 2 * sequence + u64::from(half == Half::Value);
        self.first + number * self.room * self.width
    }

    /// Seed of a token's key or value.
    fn base(&self, sequence: u64, life: u32, token: u64, half: Half) -> u64 {
        let token = token << 1 | u64::from(half == Half::Value);
        mix(mix(mix(self.seed ^ sequence) ^ u64::from(life)) ^ token)
    }

    /// A token's key or value, as it is to be.
    pub(super) fn make(
        &self,
        sequence: u64,
        (life, token, half): (u32, u64, Half),
        into: &mut [u8],
    ) {
        let base = self.base(sequence, life, token, half);
        for (at, word) in (0..).zip(into.as_chunks_mut().0) {
            *word = two(base, at).to_le_bytes();
        }
    }

    /// Writes a token to its place.
    pub(super) fn write<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        sequence: u64,
        (life, token): (u32, u64),
    ) {
        for half in [Half::Key, Half::Value] {
            let base = self.base(sequence, life, token, half);
            let start = self.start(sequence, half) + token * self.width;
            for at in 0..self.width / 8 {
                team.ram.put64(start + 8 * at, two(base, at));
            }
        }
    }

    /// Compares a token; if `valid` says in the end that it was there all the time, what is wrong counts.
    pub(super) fn compare<M: Machine>(
        &self,
        team: &Team<'_, '_, M>,
        sequence: u64,
        (life, token): (u32, u64),
        valid: impl Fn() -> bool,
        tally: &mut Tally,
    ) {
        for half in [Half::Key, Half::Value] {
            let base = self.base(sequence, life, token, half);
            let start = self.start(sequence, half) + token * self.width;
            for at in 0..self.width / 8 {
                let address = start + 8 * at;
                let (expected, found) = (two(base, at), team.ram.get64(address));
                if found != expected && valid() {
                    tally.mismatch(Mismatch {
                        address,
                        expected,
                        found,
                    });
                }
            }
        }
        if valid() {
            tally.compared += 2 * self.width;
        }
    }
}
