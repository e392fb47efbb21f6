//! Floating point that has the same bits everywhere.

use core::f32::consts::LOG2_E;

/// The one value that results have which are not a number: 0x7fc0_0000.
pub const NAN: f32 = f32::from_bits(0x7fc0_0000);

/// Which NaN an operation makes is the processor's and the compiler's choice: here it is always the same.
pub(crate) fn canonical(x: f32) -> f32 {
    if x.is_nan() { NAN } else { x }
}

/// The value of a bf16, exactly.
pub const fn f32_of_bf16(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// The nearest bf16, the even one of two; too large becomes infinite, not a number becomes 0x7fc0.
pub const fn bf16_of_f32(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let bits = x.to_bits();
    let odd = bits >> 16 & 1;
    ((bits + 0x7fff + odd) >> 16) as u16
}

/// ln 2 in two parts: the first has few enough bits that its product with an exponent is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x to 2e-7 relative. Below -87, where f32 becomes subnormal, 0; above 88, infinite.
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return NAN;
    }
    if x < -87.0 {
        return 0.0;
    }
    if x > 88.0 {
        return f32::INFINITY;
    }
    // e^x = 2^power * e^r with |r| <= ln 2 / 2.
    let powers = x * LOG2_E;
    let power = (powers + if powers < 0.0 { -0.5 } else { 0.5 }) as i32;
    let r = x - power as f32 * LN_2_HIGH - power as f32 * LN_2_LOW;
    // Taylor's series to r^7 / 7!, by Horner's rule.
    let mut sum = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        sum = sum * r + coefficient;
    }
    sum * f32::from_bits(((power + 127) as u32) << 23)
}
