//! Seeded permutations of `0..len` that need no table and can be inverted.
//!
//! Rounds of invertible steps (add, multiply by an odd number, fold the high half onto the low one) permute
//! the next power of two; values outside `0..len` walk on until they fall inside.

use super::random::Random;

const ROUNDS: usize = 3;

/// A permutation of `0..len`.
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    mask: u64,
    fold: u32,
    rounds: [Round; ROUNDS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Round {
    add: u64,
    multiply: u64,
    inverse: u64,
}

impl Permutation {
    /// The permutation of `0..len` that belongs to stream `stream` of `seed`. A `len` of 0 counts as 1.
    pub fn new(len: u64, seed: u64, stream: u64) -> Self {
        let len = len.max(1);
        let bits = 64 - (len - 1).leading_zeros();
        let mut random = Random::new(seed, stream);
        let rounds = core::array::from_fn(|_: usize| {
            let multiply = random.bits() | 1;
            Round {
                add: random.bits(),
                multiply,
                inverse: inverse(multiply),
            }
        });
        Self {
            len,
            mask: (1u64 << (bits % 64)).wrapping_sub(1),
            fold: bits.div_ceil(2),
            rounds,
        }
    }

    /// Where `index` goes. `index` must be below `len`.
    #[inline]
    pub fn get(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mut value = index;
        loop {
            for round in &self.rounds {
                value = value.wrapping_add(round.add).wrapping_mul(round.multiply) & self.mask;
                value ^= value >> self.fold;
            }
            if value < self.len {
                return value;
            }
        }
    }

    /// What goes to `value`: `inverse(get(i)) == i`. `value` must be below `len`.
    #[inline]
    pub fn inverse(&self, value: u64) -> u64 {
        debug_assert!(value < self.len);
        let mut index = value;
        loop {
            for round in self.rounds.iter().rev() {
                // The fold is by half of the bits or more: it undoes itself.
                index ^= index >> self.fold;
                index = index.wrapping_mul(round.inverse).wrapping_sub(round.add) & self.mask;
            }
            if index < self.len {
                return index;
            }
        }
    }
}

/// Inverse of an odd number modulo 2^64, by Newton's iteration: each step doubles the correct bits.
const fn inverse(odd: u64) -> u64 {
    let mut result = odd;
    let mut step = 0;
    while step < 5 {
        result = result.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(result)));
        step += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn each_value_is_reached_once_and_goes_back(len in 1u64..5_000, seed: u64) {
            let order = Permutation::new(len, seed, 0);
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let value = order.get(index);
                prop_assert!(value < len);
                prop_assert!(!core::mem::replace(&mut seen[value as usize], true));
                prop_assert_eq!(order.inverse(value), index);
            }
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        let order = Permutation::new(100_000, 1, 0);
        let close = (1..100_000)
            .filter(|&i| order.get(i).abs_diff(order.get(i - 1)) < 100)
            .count();
        assert!(
            close < 2_000,
            "{close} of 99,999 neighbours stay within 100 pages"
        );
    }

    #[test]
    fn seeds_and_streams_give_other_orders() {
        let order = |seed, stream| -> Vec<u64> {
            let order = Permutation::new(64, seed, stream);
            (0..64).map(|i| order.get(i)).collect()
        };
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
    }
}
