//! Attention of one query over a cache of keys and values, in one pass.

use crate::float::{canonical, exp};
use crate::sum::{LANES, across};
use crate::{Error, elements, elements_mut, of_length};

/// One query's attention: `softmax(scale * K q) V`, for `d` dimensions, f32.
///
/// Tokens are taken in order. Of each: its score `s`, the dot product (element `i` in lane `i % 16`, lanes added as in
/// [`crate::Sum`]) times `scale`. The scores' maximum so far is subtracted in the exponent:
///
/// - `s` is larger than all before: `f = exp(max - s)`; `weights = weights * f + 1`, `out[i] = out[i] * f + v[i]`.
/// - else: `f = exp(s - max)`; `weights = weights + f`, `out[i] = out[i] + f * v[i]`.
///
/// In the end `out[i] / weights`. Scores that are infinite or not a number make a result that is none.
#[derive(Debug)]
pub struct Attention<'a> {
    query: &'a [[u8; 4]],
    out: &'a mut [[u8; 4]],
    scale: f32,
    max: f32,
    weights: f32,
}

impl<'a> Attention<'a> {
    /// Of `query` (`d` elements), to be written to `out` (as many), which holds sums until then. The usual `scale` is one by
    /// the root of `d`.
    ///
    /// # Errors
    ///
    /// Lengths that differ, or are no multiple of 4 bytes.
    pub fn new(query: &'a [u8], scale: f32, out: &'a mut [u8]) -> Result<Self, Error> {
        of_length("result", out.len(), Some(query.len()))?;
        let (query, out) = (elements(query)?, elements_mut(out)?);
        out.fill([0; 4]);
        Ok(Self {
            query,
            out,
            scale,
            max: f32::NEG_INFINITY,
            weights: 0.0,
        })
    }

    /// The next token: its key and its value, of `d` elements each.
    ///
    /// # Errors
    ///
    /// Another length. Nothing is changed.
    pub fn token(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let expected = Some(self.query.len() * 4);
        of_length("key", key.len(), expected)?;
        of_length("value", value.len(), expected)?;
        let (key, value) = (elements(key)?, elements(value)?);
        let mut lanes = [0.0; LANES];
        for (query, key) in self.query.chunks(LANES).zip(key.chunks(LANES)) {
            for ((lane, query), key) in lanes.iter_mut().zip(query).zip(key) {
                *lane += f32::from_le_bytes(*query) * f32::from_le_bytes(*key);
            }
        }
        let score = across(lanes) * self.scale;
        let (old, new) = if score > self.max {
            (exp(self.max - score), 1.0)
        } else {
            (1.0, exp(score - self.max))
        };
        self.max = self.max.max(score);
        // A factor of 1 changes nothing, so both cases are one.
        self.weights = self.weights * old + new;
        for (out, value) in self.out.iter_mut().zip(value) {
            let sum = f32::from_le_bytes(*out) * old + f32::from_le_bytes(*value) * new;
            *out = sum.to_le_bytes();
        }
        Ok(())
    }

    /// Writes the result; zeros if there was no token.
    pub fn finish(self) {
        if self.weights == 0.0 {
            return;
        }
        for out in self.out {
            *out = canonical(f32::from_le_bytes(*out) / self.weights).to_le_bytes();
        }
    }
}
