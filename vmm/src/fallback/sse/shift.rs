//! Shifts of a 128-bit value, lane by lane or by bytes.

use iced_x86::Mnemonic;

/// What `mnemonic` makes of its target and a count, if it is one of these.
pub(super) fn find(mnemonic: Mnemonic) -> Option<fn(u128, u64) -> u128> {
    use Mnemonic::*;
    Some(match mnemonic {
        Psllw => |v, n| logical(v, n, 16, |x, n| x << n),
        Pslld => |v, n| logical(v, n, 32, |x, n| x << n),
        Psllq => |v, n| logical(v, n, 64, |x, n| x << n),
        Psrlw => |v, n| logical(v, n, 16, |x, n| x >> n),
        Psrld => |v, n| logical(v, n, 32, |x, n| x >> n),
        Psrlq => |v, n| logical(v, n, 64, |x, n| x >> n),
        Psraw => |v, n| arithmetic(v, n, 16),
        Psrad => |v, n| arithmetic(v, n, 32),
        Pslldq => |v, n| if n < 16 { v << (8 * n) } else { 0 },
        Psrldq => |v, n| if n < 16 { v >> (8 * n) } else { 0 },
        _ => return None,
    })
}

/// Shifts lanes of `bits` bits; a count of `bits` or more gives zero.
fn logical(v: u128, count: u64, bits: u32, shift: fn(u128, u32) -> u128) -> u128 {
    if count >= bits.into() {
        return 0;
    }
    lanes(v, bits, |lane| shift(lane, count as u32))
}

/// Shifts signed lanes of `bits` bits to the right; a count of `bits` or more leaves only the sign.
fn arithmetic(v: u128, count: u64, bits: u32) -> u128 {
    let count = count.min(u64::from(bits) - 1) as u32;
    let unused = 128 - bits;
    lanes(v, bits, |lane| {
        ((lane << unused) as i128 >> unused >> count) as u128
    })
}

fn lanes(v: u128, bits: u32, f: impl Fn(u128) -> u128) -> u128 {
    let mask = (1 << bits) - 1;
    (0..128 / bits).fold(0, |result, i| {
        result | (f(v >> (bits * i) & mask) & mask) << (bits * i)
    })
}
