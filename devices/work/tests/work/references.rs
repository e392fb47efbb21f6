//! Against references in f64, with the tolerances that f32 in the stated order allows.

use gmem_work::{
    Attention, Shape, Sum, bf16_of_f32, exp, f32_of_bf16, gather, gemm_bf16, gemm_f32, saxpy,
    sum_u64,
};

use super::{bytes, random, values};

#[test]
fn exp_is_right_to_2e_7() {
    let mut worst: f64 = 0.0;
    for step in 0..1_750_000 {
        let x = -87.0 + step as f32 * 1e-4;
        let right = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) / right - 1.0).abs());
    }
    assert!(worst < 2e-7, "{worst:e}");
    assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
    assert_eq!((exp(-87.1), exp(f32::NEG_INFINITY)), (0.0, 0.0));
    assert_eq!(
        (exp(88.1), exp(f32::INFINITY)),
        (f32::INFINITY, f32::INFINITY)
    );
}

#[test]
fn bf16_is_the_nearest_and_the_even_one_of_two() {
    for bits in 0..=u16::MAX {
        let value = f32_of_bf16(bits);
        let expected = if value.is_nan() { 0x7fc0 } else { bits };
        assert_eq!(bf16_of_f32(value), expected);
    }
    let rounded = [
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x7f7f_ffff,
        0x8000_7fff,
    ];
    let rounded = rounded.map(|bits| bf16_of_f32(f32::from_bits(bits)));
    assert_eq!(rounded, [0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x8000]);
}

#[test]
fn saxpy_rounds_twice() {
    let (x, y) = (random(1, 3000), random(2, 3000));
    let mut result = bytes(&y);
    saxpy(0.7, &bytes(&x), &mut result).unwrap();
    for ((x, y), result) in x.iter().zip(&y).zip(values(&result)) {
        assert_eq!(result, 0.7f32 * x + y);
        let right = f64::from(0.7f32) * f64::from(*x) + f64::from(*y);
        assert!((f64::from(result) - right).abs() <= 1.2e-7);
    }
}

#[test]
fn a_sum_is_right_to_the_depth_of_its_tree() {
    for count in [0, 1, 15, 16, 17, 1023, 1024, 1025, 100_000] {
        let x = random(3, count);
        let mut sum = Sum::new();
        sum.add(&bytes(&x)).unwrap();
        let right: f64 = x.iter().copied().map(f64::from).sum();
        let size: f64 = x.iter().map(|x| f64::from(x.abs())).sum();
        // 64 additions in a lane, 4 across, 7 levels of blocks: each half a unit in the last place.
        let error = (f64::from(sum.total()) - right).abs();
        assert!(error <= 75.0 * 6e-8 * size, "{count}: {error:e}");
    }
    let words: Vec<u8> = [u64::MAX, 5, 7]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(sum_u64(&words), Ok(11));
}

#[test]
fn products_of_matrices() {
    let shape = Shape {
        m: 7,
        n: 19,
        k: 130,
    };
    let Shape { m, n, k } = shape;
    let (a, b, c) = (random(4, m * k), random(5, k * n), random(6, m * n));
    let short = |x: &[f32]| -> Vec<u8> {
        x.iter()
            .flat_map(|x| bf16_of_f32(*x).to_le_bytes())
            .collect()
    };
    let cut = |x: &[f32]| -> Vec<f32> { x.iter().map(|x| f32_of_bf16(bf16_of_f32(*x))).collect() };
    let mut full = bytes(&c);
    gemm_f32(shape, &bytes(&a), &bytes(&b), &mut full).unwrap();
    let mut half = bytes(&c);
    gemm_bf16(shape, &short(&a), &short(&b), &mut half).unwrap();
    for (a, b, result) in [(&a, &b, values(&full)), (&cut(&a), &cut(&b), values(&half))] {
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b[l * n + j]));
                let size: f64 = products.clone().map(f64::abs).sum::<f64>() + 1.0;
                let right = f64::from(c[i * n + j]) + products.sum::<f64>();
                let error = (f64::from(result[i * n + j]) - right).abs();
                assert!(error <= (k + 1) as f64 * 6e-8 * size, "{i},{j}: {error:e}");
            }
        }
    }
}

#[test]
fn rows_by_index() {
    let table: Vec<u8> = (0..60).collect();
    let indices: Vec<u8> = [4u32, 0, 4]
        .iter()
        .flat_map(|index| index.to_le_bytes())
        .collect();
    let mut rows = [0; 36];
    gather(&table, 12, &indices, &mut rows).unwrap();
    assert_eq!(rows[..12], table[48..]);
    assert_eq!(rows[12..24], table[..12]);
    assert_eq!(rows[24..], table[48..]);
}

#[test]
fn attention_is_a_softmax() {
    let (d, tokens) = (80, 500);
    let scale = 1.0 / (d as f32).sqrt();
    for large in [1.0, 40.0] {
        let query: Vec<f32> = random(7, d).iter().map(|x| x * large).collect();
        let (keys, cached) = (random(8, d * tokens), random(9, d * tokens));
        let query_bytes = bytes(&query);
        let mut out = vec![0xff; d * 4];
        let mut attention = Attention::new(&query_bytes, scale, &mut out).unwrap();
        for (key, value) in keys.chunks(d).zip(cached.chunks(d)) {
            attention.token(&bytes(key), &bytes(value)).unwrap();
        }
        attention.finish();
        let scores: Vec<f64> = keys
            .chunks(d)
            .map(|key| {
                key.iter()
                    .zip(&query)
                    .map(|(k, q)| f64::from(*k) * f64::from(*q))
                    .sum::<f64>()
            })
            .map(|dot| dot * f64::from(scale))
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (i, result) in values(&out).into_iter().enumerate() {
            let sum: f64 = weights
                .iter()
                .zip(cached.chunks(d))
                .map(|(w, value)| w * f64::from(value[i]))
                .sum();
            // Scores of up to `large` times a few are off by their own rounding, sums by that of 500 additions.
            let error = (f64::from(result) - sum / total).abs();
            assert!(error < 3e-6 * f64::from(large), "{i}: {error:e}");
        }
    }
}
