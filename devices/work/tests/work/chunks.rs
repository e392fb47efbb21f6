//! Any chunking gives the same bits, whatever the operands are.

use std::sync::atomic::AtomicU64;

use gmem_work::{
    Attention, BLOCK, Shape, Sum, Tree, atomic_add, block_sum, copy, fill, gemm_bf16, gemm_f32,
    saxpy, sum_u64,
};
use proptest::prelude::*;

use super::bytes;

/// Any f32: often an ordinary one, now and then infinite, subnormal or not a number, of whatever bits.
fn floats(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![20 => -1e3..1e3f32, 1 => any::<u32>().prop_map(f32::from_bits)];
    prop::collection::vec(one, count).prop_map(|values| bytes(&values))
}

/// Where to cut `len` elements of `size` bytes: offsets in bytes, ascending, from 0 to the end.
fn cuts(seeds: &[prop::sample::Index], len: usize, size: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = seeds
        .iter()
        .map(|seed| seed.index(len + 1) * size)
        .collect();
    cuts.extend([0, len * size]);
    cuts.sort_unstable();
    cuts
}

fn seeds() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

fn pieces(cuts: &[usize]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    cuts.windows(2).map(|pair| pair[0]..pair[1])
}

proptest! {
    #[test]
    fn of_bytes(from in prop::collection::vec(any::<u8>(), 0..300), pattern: u64, seeds in seeds()) {
        let cuts = cuts(&seeds, from.len(), 1);
        let (mut filled, mut copied) = (from.clone(), vec![0; from.len()]);
        for piece in pieces(&cuts) {
            fill(&mut filled[piece.clone()], pattern, piece.start as u64);
            copy(&from[piece.clone()], &mut copied[piece]).unwrap();
        }
        prop_assert_eq!(&copied, &from);
        for (at, byte) in filled.iter().enumerate() {
            prop_assert_eq!(*byte, pattern.to_le_bytes()[at % 8]);
        }
    }

    #[test]
    fn of_vectors(x in floats(0..200), a: f32, seeds in seeds()) {
        let y: Vec<u8> = x.iter().rev().copied().collect();
        let mut whole = y.clone();
        saxpy(a, &x, &mut whole).unwrap();
        let mut cut = y;
        for piece in pieces(&cuts(&seeds, x.len() / 4, 4)) {
            saxpy(a, &x[piece.clone()], &mut cut[piece]).unwrap();
        }
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn of_sums(x in floats(0..5000usize), seeds in seeds()) {
        let mut whole = Sum::new();
        whole.add(&x).unwrap();
        let mut cut = Sum::new();
        for piece in pieces(&cuts(&seeds, x.len() / 4, 4)) {
            cut.add(&x[piece]).unwrap();
        }
        let mut tree = Tree::new();
        for block in x.chunks(BLOCK * 4) {
            tree.push(block_sum(block).unwrap());
        }
        let whole = whole.total().to_bits();
        prop_assert_eq!((cut.total().to_bits(), tree.total().to_bits()), (whole, whole));
    }

    #[test]
    fn of_sums_of_words(words in prop::collection::vec(any::<u64>(), 0..100), seeds in seeds()) {
        let x: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let sum = AtomicU64::new(0);
        for piece in pieces(&cuts(&seeds, words.len(), 8)) {
            atomic_add(&sum, sum_u64(&x[piece]).unwrap());
        }
        prop_assert_eq!(sum.into_inner(), words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)));
    }

    #[test]
    fn of_matrices(
        (shape, a, b, c) in (0..6usize, 0..6usize, 0..40usize).prop_flat_map(|(m, n, k)| {
            (Just(Shape { m, n, k }), floats(m * k), floats(k * n), floats(m * n))
        }),
        rows in seeds(),
        depths in seeds(),
    ) {
        let Shape { m, n, k } = shape;
        let mut whole = c.clone();
        gemm_f32(shape, &a, &b, &mut whole).unwrap();
        let mut cut = c.clone();
        for row in pieces(&cuts(&rows, m, 1)) {
            for depth in pieces(&cuts(&depths, k, 1)) {
                let tile = row.clone().flat_map(|i| &a[(i * k + depth.start) * 4..(i * k + depth.end) * 4]);
                let tile: Vec<u8> = tile.copied().collect();
                let shape = Shape { m: row.len(), n, k: depth.len() };
                let b = &b[depth.start * n * 4..depth.end * n * 4];
                gemm_f32(shape, &tile, b, &mut cut[row.start * n * 4..row.end * n * 4]).unwrap();
            }
        }
        prop_assert_eq!(whole, cut);
        // The upper halves of the words are bf16; any bits will do.
        let (a, b) = (&a[..m * k * 2], &b[..k * n * 2]);
        let mut whole = c.clone();
        gemm_bf16(shape, a, b, &mut whole).unwrap();
        let mut cut = c;
        for row in pieces(&cuts(&rows, m, 1)) {
            let shape = Shape { m: row.len(), n, k };
            let tile = &a[row.start * k * 2..row.end * k * 2];
            gemm_bf16(shape, tile, b, &mut cut[row.start * n * 4..row.end * n * 4]).unwrap();
        }
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn nothing_that_attention_is_given_makes_it_panic(
        (query, keys) in (0..40usize).prop_flat_map(|d| (floats(d), prop::collection::vec(floats(d), 0..10))),
        scale: f32,
    ) {
        let run = || {
            let mut out = vec![0xff; query.len()];
            let mut attention = Attention::new(&query, scale, &mut out).unwrap();
            for key in &keys {
                attention.token(key, key).unwrap();
            }
            attention.finish();
            out
        };
        prop_assert_eq!(run(), run());
    }
}
