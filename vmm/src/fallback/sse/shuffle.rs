//! Shuffles by an immediate, and masks of sign bits.

use iced_x86::Mnemonic;

/// What `mnemonic` makes of its target, its source and an immediate, if it is one of these.
pub(super) fn find(mnemonic: Mnemonic) -> Option<fn(u128, u128, u8) -> u128> {
    use Mnemonic::*;
    Some(match mnemonic {
        Pshufd => |_, source, order| pick(source, source, order, 32),
        // The other half is copied.
        Pshuflw => |_, source, order| source >> 64 << 64 | pick(source, source, order, 16),
        Pshufhw => |_, source, order| {
            let high = source >> 64;
            pick(high, high, order, 16) << 64 | source & u128::from(u64::MAX)
        },
        Shufps => |target, source, order| pick(target, source, order, 32),
        Shufpd => |target, source, order| {
            let half = |v: u128, high: u8| v >> (64 * u32::from(high & 1)) & u128::from(u64::MAX);
            half(source, order >> 1) << 64 | half(target, order)
        },
        _ => return None,
    })
}

/// What mask `mnemonic` makes of its source, if it is one of these.
pub(super) fn find_mask(mnemonic: Mnemonic) -> Option<fn(u128) -> u32> {
    use Mnemonic::*;
    Some(match mnemonic {
        Pmovmskb => |v| signs(v, 8),
        Movmskps => |v| signs(v, 32),
        Movmskpd => |v| signs(v, 64),
        _ => return None,
    })
}

/// Four lanes of `bits` bits, each named by two bits of `order`: two of `low`, then two of `high`.
fn pick(low: u128, high: u128, order: u8, bits: u32) -> u128 {
    let mask = (1 << bits) - 1;
    (0..4).fold(0, |result, i| {
        let from = if i < 2 { low } else { high };
        let lane = u32::from(order >> (2 * i) & 3);
        result | (from >> (bits * lane) & mask) << (bits * i)
    })
}

/// The top bit of each lane of `bits` bits.
fn signs(v: u128, bits: u32) -> u32 {
    (0..128 / bits).fold(0, |mask, i| {
        mask | ((v >> (bits * i + bits - 1)) as u32 & 1) << i
    })
}
