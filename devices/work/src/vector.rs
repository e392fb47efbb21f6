//! Commands on vectors, element by element.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::float::canonical;
use crate::{Error, elements, elements_mut, of_length};

/// `y[i] = a * x[i] + y[i]`, f32. The product is rounded, then the sum.
///
/// # Errors
///
/// The lengths differ or are no multiple of 4 bytes. Nothing is changed.
pub fn saxpy(a: f32, x: &[u8], y: &mut [u8]) -> Result<(), Error> {
    of_length("x", x.len(), Some(y.len()))?;
    for (y, x) in elements_mut(y)?.iter_mut().zip(elements(x)?) {
        let sum = a * f32::from_le_bytes(*x) + f32::from_le_bytes(*y);
        *y = canonical(sum).to_le_bytes();
    }
    Ok(())
}

/// Adds to a word and returns what it was. Wraps at 2^64, so that any order of additions leaves the same.
pub fn atomic_add(word: &AtomicU64, value: u64) -> u64 {
    word.fetch_add(value, Ordering::AcqRel)
}
