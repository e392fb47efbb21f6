//! Matrix products.

use crate::float::{canonical, f32_of_bf16};
use crate::{Error, elements, elements_mut, of_length};

/// Sizes of `C += A B`, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// `C += A B` for a tile: A is `m` by `k`, B is `k` by `n`, C is `m` by `n`, all f32.
///
/// To each element of C, products are added in ascending order of `k`, each product and each sum rounded: so tiles may be cut
/// anywhere, if those of the same part of C come in ascending order of `k`.
///
/// # Errors
///
/// A length that is not that of the shape. Nothing is changed.
pub fn gemm_f32(shape: Shape, a: &[u8], b: &[u8], c: &mut [u8]) -> Result<(), Error> {
    gemm(shape, a, b, c, f32::from_le_bytes)
}

/// As [`gemm_f32`], with A and B in bf16 and C in f32. A product of two bf16 has at most 16 significant bits, so it is
/// exact unless it is subnormal or infinite, and only sums are rounded. [`crate::bf16_of_f32`] rounds C once more where bf16 is wanted.
///
/// # Errors
///
/// As [`gemm_f32`].
pub fn gemm_bf16(shape: Shape, a: &[u8], b: &[u8], c: &mut [u8]) -> Result<(), Error> {
    gemm(shape, a, b, c, |bits| f32_of_bf16(u16::from_le_bytes(bits)))
}

fn gemm<const N: usize>(
    Shape { m, n, k }: Shape,
    a: &[u8],
    b: &[u8],
    c: &mut [u8],
    value: impl Fn([u8; N]) -> f32,
) -> Result<(), Error> {
    let bytes = |rows: usize, columns: usize, element: usize| {
        rows.checked_mul(columns)
            .and_then(|elements| elements.checked_mul(element))
    };
    of_length("A", a.len(), bytes(m, k, N))?;
    of_length("B", b.len(), bytes(k, n, N))?;
    of_length("C", c.len(), bytes(m, n, 4))?;
    if m == 0 || n == 0 || k == 0 {
        return Ok(());
    }
    let (a, b, c) = (elements(a)?, elements(b)?, elements_mut(c)?);
    for (a, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)) {
        for (a, b) in a.iter().zip(b.chunks_exact(n)) {
            let a = value(*a);
            for (c, b) in c.iter_mut().zip(b) {
                let sum = f32::from_le_bytes(*c) + a * value(*b);
                *c = canonical(sum).to_le_bytes();
            }
        }
    }
    Ok(())
}
