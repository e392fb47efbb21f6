//! The arithmetic of commands: against plain references, in any chunks, and with operands that make no sense.

mod chunks;
mod edges;
mod references;

/// The bytes of `values`, as they lie in memory.
fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The values of `bytes`.
fn values(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.as_chunks().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// `count` values between -1 and 1, the same for the same seed.
fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}
