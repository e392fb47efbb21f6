//! The bits of results, as they have always been: a guest that checks a device was perhaps built by another compiler.

use gmem_work::{Attention, Shape, Sum, bf16_of_f32, exp, gemm_bf16, gemm_f32, saxpy};

/// Bytes of `count` f32 between -1 and 1.
fn floats(seed: u32, count: u32) -> Vec<u8> {
    let hash = |index: u32| (index ^ seed << 20).wrapping_mul(0x9e37_79b1);
    let value = |index| (hash(index) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..count)
        .flat_map(|index| value(index).to_le_bytes())
        .collect()
}

/// Bytes of as many bf16.
fn short(seed: u32, count: u32) -> Vec<u8> {
    let words = floats(seed, count);
    let words = words
        .as_chunks()
        .0
        .iter()
        .map(|word| f32::from_le_bytes(*word));
    words
        .flat_map(|value| bf16_of_f32(value).to_le_bytes())
        .collect()
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[test]
fn results_have_the_bits_that_they_always_had() {
    let mut y = floats(1, 1000);
    saxpy(0.3, &floats(2, 1000), &mut y).unwrap();
    assert_eq!(digest(&y), 0xdf7c_edc1_07c9_5f59, "saxpy");

    let mut sum = Sum::new();
    sum.add(&floats(3, 12_345)).unwrap();
    assert_eq!(sum.total().to_bits(), 0x3fc3_21f5, "sum");

    let shape = Shape { m: 9, n: 33, k: 70 };
    let mut c = floats(4, 9 * 33);
    gemm_f32(shape, &floats(5, 9 * 70), &floats(6, 70 * 33), &mut c).unwrap();
    assert_eq!(digest(&c), 0x3846_de0f_7c32_2279, "gemm_f32");

    let mut c = floats(7, 9 * 33);
    gemm_bf16(shape, &short(8, 9 * 70), &short(9, 70 * 33), &mut c).unwrap();
    assert_eq!(digest(&c), 0xc590_e836_156b_e636, "gemm_bf16");

    let steps = (0..50_000).map(|step| exp(step as f32 * 0.0035 - 87.5));
    let powers: Vec<u8> = steps.flat_map(|power| power.to_le_bytes()).collect();
    assert_eq!(digest(&powers), 0x174e_f2f5_ceae_c142, "exp");

    let (query, mut out) = (floats(10, 72), vec![0; 72 * 4]);
    let mut attention = Attention::new(&query, 0.9, &mut out).unwrap();
    for token in 0..200 {
        attention
            .token(&floats(11 + token, 72), &floats(500 + token, 72))
            .unwrap();
    }
    attention.finish();
    assert_eq!(digest(&out), 0x787e_7cc1_626a_6635, "attention");
}
