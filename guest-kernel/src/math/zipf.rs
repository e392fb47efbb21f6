//! Zipf's law by rejection-inversion (Hörmann, Derflinger: "Rejection-inversion to generate variates from
//! monotone discrete distributions", TOMACS 1996): constant time, no table.

use super::float::{exp, ln};
use super::random::Random;

/// Ranks `0..len`, rank `r` with a probability proportional to `1 / (r + 1)^theta`.
#[derive(Clone, Debug)]
pub struct Zipf {
    len: u64,
    theta: f64,
    /// Integral up to the first rank's end, less that rank's weight.
    low: f64,
    /// Integral up to the last rank's end.
    high: f64,
    /// Distance up to which a rounded value is accepted without a closer look.
    shortcut: f64,
}

impl Zipf {
    /// A sampler of `len` ranks (0 counts as 1); `theta` is positive.
    pub fn new(len: u64, theta: f64) -> Self {
        let mut zipf = Self {
            len: len.max(1),
            theta,
            low: 0.0,
            high: 0.0,
            shortcut: 0.0,
        };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.len as f64 + 0.5);
        zipf.shortcut = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    /// A rank, from 0, the most frequent one.
    #[inline]
    pub fn sample(&self, random: &mut Random) -> u64 {
        loop {
            let u = self.high + random.unit() * (self.low - self.high);
            let x = self.integral_inverse(u);
            let rank = ((x + 0.5) as u64).clamp(1, self.len);
            let k = rank as f64;
            if k - x <= self.shortcut || u >= self.integral(k + 0.5) - self.weight(k) {
                return rank - 1;
            }
        }
    }

    /// x^-theta.
    fn weight(&self, x: f64) -> f64 {
        exp(-self.theta * ln(x))
    }

    /// Integral of the weight from 1 to x: (x^(1 - theta) - 1) / (1 - theta), or ln x.
    fn integral(&self, x: f64) -> f64 {
        let log = ln(x);
        let t = (1.0 - self.theta) * log;
        log * if t.abs() > 1e-6 {
            (exp(t) - 1.0) / t
        } else {
            1.0 + t / 2.0 + t * t / 6.0
        }
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = ((1.0 - self.theta) * y).max(-1.0 + 1e-15);
        exp(y * if t.abs() > 1e-6 {
            ln(1.0 + t) / t
        } else {
            1.0 - t / 2.0 + t * t / 3.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn frequencies_follow_the_law() {
        for theta in [0.5, 0.99, 1.0, 1.3] {
            let (len, samples) = (1_000u64, 400_000);
            let zipf = Zipf::new(len, theta);
            let mut random = Random::new(5, 0);
            let mut counts = vec![0f64; len as usize];
            for _ in 0..samples {
                counts[zipf.sample(&mut random) as usize] += 1.0;
            }
            let total: f64 = (1..=len).map(|k| (k as f64).powf(-theta)).sum();
            for (from, to) in [(0, 1), (1, 2), (2, 10), (10, 100), (100, 500), (500, 1_000)] {
                let found: f64 = counts[from..to].iter().sum();
                let expected: f64 = (from + 1..=to)
                    .map(|k| (k as f64).powf(-theta) / total * f64::from(samples))
                    .sum();
                let error = (found - expected).abs();
                assert!(
                    error < 5.0 * expected.sqrt(),
                    "theta {theta}, ranks {from}..{to}: {found} of {expected}"
                );
            }
        }
    }

    #[test]
    fn one_rank_is_always_rank_0() {
        let zipf = Zipf::new(1, 0.99);
        let mut random = Random::new(5, 0);
        assert!((0..1_000).all(|_| zipf.sample(&mut random) == 0));
    }
}
