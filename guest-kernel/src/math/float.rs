//! Exponential and logarithm: `core` has none.

use core::f64::consts::{LN_2, SQRT_2};

/// e^x, to about 1e-14 relative, for -700 < x < 700; outside, the value at the nearer bound.
#[inline]
pub fn exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    let halves = x / LN_2 + if x < 0.0 { -0.5 } else { 0.5 };
    let power = halves as i64;
    let r = x - power as f64 * LN_2;
    // Taylor's series, |r| <= ln 2 / 2.
    let mut sum = 1.0;
    let mut divisor = 13.0;
    while divisor >= 1.0 {
        sum = 1.0 + r / divisor * sum;
        divisor -= 1.0;
    }
    sum * f64::from_bits(((power + 1023) as u64) << 52)
}

/// Natural logarithm, to about 1e-14 relative, of a positive normal number.
#[inline]
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut power = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | (1023 << 52));
    if mantissa > SQRT_2 {
        mantissa /= 2.0;
        power += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), |t| < 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    let mut odd = 17.0;
    while odd >= 1.0 {
        sum = sum * square + 1.0 / odd;
        odd -= 2.0;
    }
    2.0 * t * sum + power as f64 * LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_hosts_library() {
        for step in 0..4_000 {
            let x = -600.0 + 0.3 * f64::from(step);
            let relative = (exp(x) / x.exp() - 1.0).abs();
            assert!(relative < 1e-12, "exp({x}): {relative}");
            let y = 1e-9 * 1.02f64.powi(step);
            let error = (ln(y) - y.ln()).abs();
            assert!(error < 1e-12, "ln({y}): {error}");
        }
    }
}
