//! Lane by lane: logic, arithmetic, comparison, interleaving and packing of two 128-bit values.

use std::array::from_fn;

use iced_x86::Mnemonic;

/// What `mnemonic` makes of its target and its source, if it is one of these.
pub(super) fn find(mnemonic: Mnemonic) -> Option<fn(u128, u128) -> u128> {
    use Mnemonic::*;
    Some(match mnemonic {
        Pxor | Xorps | Xorpd => |a, b| a ^ b,
        Por | Orps | Orpd => |a, b| a | b,
        Pand | Andps | Andpd => |a, b| a & b,
        Pandn | Andnps | Andnpd => |a, b| !a & b,

        Paddb => |a, b| bytes(a, b, u8::wrapping_add),
        Paddw => |a, b| words(a, b, u16::wrapping_add),
        Paddd => |a, b| doubles(a, b, u32::wrapping_add),
        Paddq => |a, b| quads(a, b, u64::wrapping_add),
        Psubb => |a, b| bytes(a, b, u8::wrapping_sub),
        Psubw => |a, b| words(a, b, u16::wrapping_sub),
        Psubd => |a, b| doubles(a, b, u32::wrapping_sub),
        Psubq => |a, b| quads(a, b, u64::wrapping_sub),
        Paddusb => |a, b| bytes(a, b, u8::saturating_add),
        Paddusw => |a, b| words(a, b, u16::saturating_add),
        Psubusb => |a, b| bytes(a, b, u8::saturating_sub),
        Psubusw => |a, b| words(a, b, u16::saturating_sub),
        Paddsb => |a, b| bytes(a, b, |x, y| (x as i8).saturating_add(y as i8) as u8),
        Paddsw => |a, b| words(a, b, |x, y| (x as i16).saturating_add(y as i16) as u16),
        Psubsb => |a, b| bytes(a, b, |x, y| (x as i8).saturating_sub(y as i8) as u8),
        Psubsw => |a, b| words(a, b, |x, y| (x as i16).saturating_sub(y as i16) as u16),

        Pcmpeqb => |a, b| bytes(a, b, |x, y| if x == y { !0 } else { 0 }),
        Pcmpeqw => |a, b| words(a, b, |x, y| if x == y { !0 } else { 0 }),
        Pcmpeqd => |a, b| doubles(a, b, |x, y| if x == y { !0 } else { 0 }),
        Pcmpgtb => |a, b| bytes(a, b, |x, y| if x as i8 > y as i8 { !0 } else { 0 }),
        Pcmpgtw => |a, b| words(a, b, |x, y| if x as i16 > y as i16 { !0 } else { 0 }),
        Pcmpgtd => |a, b| doubles(a, b, |x, y| if x as i32 > y as i32 { !0 } else { 0 }),
        Pminub => |a, b| bytes(a, b, u8::min),
        Pmaxub => |a, b| bytes(a, b, u8::max),
        Pminsw => |a, b| words(a, b, |x, y| (x as i16).min(y as i16) as u16),
        Pmaxsw => |a, b| words(a, b, |x, y| (x as i16).max(y as i16) as u16),
        Pavgb => |a, b| bytes(a, b, |x, y| (u16::from(x) + u16::from(y)).div_ceil(2) as u8),
        Pavgw => |a, b| {
            words(a, b, |x, y| {
                (u32::from(x) + u32::from(y)).div_ceil(2) as u16
            })
        },

        Pmullw => |a, b| words(a, b, u16::wrapping_mul),
        Pmulhuw => |a, b| words(a, b, |x, y| ((u32::from(x) * u32::from(y)) >> 16) as u16),
        Pmulhw => |a, b| words(a, b, |x, y| ((signed(x) * signed(y)) >> 16) as u16),
        Pmuludq => |a, b| quads(a, b, |x, y| (x & 0xffff_ffff) * (y & 0xffff_ffff)),
        Pmaddwd => |a, b| doubles(a, b, multiply_add),
        Psadbw => |a, b| quads(a, b, absolute_differences),

        Punpcklbw => |a, b| interleave_8(a, b, 0),
        Punpckhbw => |a, b| interleave_8(a, b, 8),
        Punpcklwd => |a, b| interleave_16(a, b, 0),
        Punpckhwd => |a, b| interleave_16(a, b, 4),
        Punpckldq | Unpcklps => |a, b| interleave_32(a, b, 0),
        Punpckhdq | Unpckhps => |a, b| interleave_32(a, b, 2),
        Punpcklqdq | Unpcklpd => |a, b| a & u128::from(u64::MAX) | b << 64,
        Punpckhqdq | Unpckhpd => |a, b| a >> 64 | b >> 64 << 64,

        Packsswb => |a, b| pack_16(a, b, |x| x.clamp(i8::MIN.into(), i8::MAX.into()) as u8),
        Packuswb => |a, b| pack_16(a, b, |x| x.clamp(0, u8::MAX.into()) as u8),
        Packssdw => pack_32,
        _ => return None,
    })
}

fn lanes_16(v: u128) -> [u16; 8] {
    from_fn(|i| (v >> (16 * i)) as u16)
}

fn lanes_32(v: u128) -> [u32; 4] {
    from_fn(|i| (v >> (32 * i)) as u32)
}

fn join_16(lanes: [u16; 8]) -> u128 {
    lanes.iter().rev().fold(0, |v, &x| v << 16 | u128::from(x))
}

fn join_32(lanes: [u32; 4]) -> u128 {
    lanes.iter().rev().fold(0, |v, &x| v << 32 | u128::from(x))
}

fn bytes(a: u128, b: u128, f: impl Fn(u8, u8) -> u8) -> u128 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    u128::from_le_bytes(from_fn(|i| f(a[i], b[i])))
}

fn words(a: u128, b: u128, f: impl Fn(u16, u16) -> u16) -> u128 {
    let (a, b) = (lanes_16(a), lanes_16(b));
    join_16(from_fn(|i| f(a[i], b[i])))
}

fn doubles(a: u128, b: u128, f: impl Fn(u32, u32) -> u32) -> u128 {
    let (a, b) = (lanes_32(a), lanes_32(b));
    join_32(from_fn(|i| f(a[i], b[i])))
}

fn quads(a: u128, b: u128, f: impl Fn(u64, u64) -> u64) -> u128 {
    let high = f((a >> 64) as u64, (b >> 64) as u64);
    u128::from(high) << 64 | u128::from(f(a as u64, b as u64))
}

fn signed(x: u16) -> i32 {
    (x as i16).into()
}

/// Sum of the products of the two signed 16-bit halves.
fn multiply_add(x: u32, y: u32) -> u32 {
    let low = signed(x as u16) * signed(y as u16);
    let high = signed((x >> 16) as u16) * signed((y >> 16) as u16);
    low.wrapping_add(high) as u32
}

/// Sum of the absolute differences of eight bytes.
fn absolute_differences(x: u64, y: u64) -> u64 {
    let pairs = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    pairs.map(|(x, y)| u64::from(x.abs_diff(y))).sum()
}

/// Lanes of `a` and `b` in turn, from lane `from` of each on.
fn interleave_8(a: u128, b: u128, from: usize) -> u128 {
    let pair = [a.to_le_bytes(), b.to_le_bytes()];
    u128::from_le_bytes(from_fn(|i| pair[i % 2][from + i / 2]))
}

fn interleave_16(a: u128, b: u128, from: usize) -> u128 {
    let pair = [lanes_16(a), lanes_16(b)];
    join_16(from_fn(|i| pair[i % 2][from + i / 2]))
}

fn interleave_32(a: u128, b: u128, from: usize) -> u128 {
    let pair = [lanes_32(a), lanes_32(b)];
    join_32(from_fn(|i| pair[i % 2][from + i / 2]))
}

/// Signed words of `a`, then of `b`, each as a byte.
fn pack_16(a: u128, b: u128, narrow: impl Fn(i16) -> u8) -> u128 {
    let pair = [lanes_16(a), lanes_16(b)];
    u128::from_le_bytes(from_fn(|i| narrow(pair[i / 8][i % 8] as i16)))
}

/// Signed doublewords of `a`, then of `b`, each saturated to a signed word.
fn pack_32(a: u128, b: u128) -> u128 {
    let pair = [lanes_32(a), lanes_32(b)];
    let narrow = |x: i32| x.clamp(i16::MIN.into(), i16::MAX.into()) as u16;
    join_16(from_fn(|i| narrow(pair[i / 4][i % 4] as i32)))
}
