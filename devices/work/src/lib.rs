//! The arithmetic of accelerator commands: what the device does, and the bundled guest checks.
//!
//! Operands are bytes as they lie in memory: little-endian elements without gaps, matrices row by row. A device
//! does a command in chunks, as pages come: each function is for one chunk, or there is a type that takes one chunk
//! after the other. **Any chunking gives the same bits**, on the device and on a CPU:
//!
//! - The order of operations is part of each function's promise. Products and sums are rounded each for itself (no
//!   fused multiply-add), to nearest even, subnormal numbers kept: a CPU's floating point as it is after reset. No
//!   function of a mathematical library is used.
//! - A result that is not a number is [`NAN`], whichever operands made it so.
//!
//! Chunks are cut between elements; bytes that are no whole element are an error. Nothing allocates, nothing panics.
#![no_std]

mod attention;
mod bytes;
mod float;
mod gather;
mod gemm;
mod sum;
mod vector;

pub use attention::Attention;
pub use bytes::{copy, fill};
pub use float::{NAN, bf16_of_f32, exp, f32_of_bf16};
pub use gather::{Rows, gather};
pub use gemm::{Shape, gemm_bf16, gemm_f32};
pub use sum::{BLOCK, LANES, Sum, Tree, block_sum, sum_u64};
pub use vector::{atomic_add, saxpy};

use core::fmt;

/// A chunk that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Its length is not a multiple of its elements'.
    Ragged {
        /// Length of the chunk, bytes.
        bytes: usize,
        /// Length of an element, bytes.
        element: usize,
    },
    /// It is not as long as what it goes with.
    Length {
        /// Which operand.
        operand: &'static str,
        /// Its length, bytes.
        bytes: usize,
        /// The length that it should have, bytes; `None` if no chunk could have it.
        expected: Option<usize>,
    },
    /// An index beyond the table.
    Row {
        /// The index.
        index: u32,
        /// Rows of the table.
        rows: u64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ragged { bytes, element } => {
                write!(f, "{bytes} bytes, of elements of {element} bytes")
            }
            Self::Length {
                operand,
                bytes,
                expected: Some(expected),
            } => write!(f, "{operand} has {bytes} bytes, not {expected}"),
            Self::Length { operand, bytes, .. } => {
                write!(
                    f,
                    "{operand} has {bytes} bytes, and a shape beyond all memory"
                )
            }
            Self::Row { index, rows } => write!(f, "row {index} of a table of {rows} rows"),
        }
    }
}

impl core::error::Error for Error {}

/// The elements of `bytes`, `N` bytes each.
fn elements<const N: usize>(bytes: &[u8]) -> Result<&[[u8; N]], Error> {
    match bytes.as_chunks() {
        (elements, []) => Ok(elements),
        _ => Err(ragged::<N>(bytes)),
    }
}

/// As [`elements`].
fn elements_mut<const N: usize>(bytes: &mut [u8]) -> Result<&mut [[u8; N]], Error> {
    if !bytes.len().is_multiple_of(N) {
        return Err(ragged::<N>(bytes));
    }
    Ok(bytes.as_chunks_mut().0)
}

fn ragged<const N: usize>(bytes: &[u8]) -> Error {
    Error::Ragged {
        bytes: bytes.len(),
        element: N,
    }
}

/// Checks that operand `operand`, of `bytes` bytes, has `expected`.
fn of_length(operand: &'static str, bytes: usize, expected: Option<usize>) -> Result<(), Error> {
    if Some(bytes) == expected {
        return Ok(());
    }
    Err(Error::Length {
        operand,
        bytes,
        expected,
    })
}
