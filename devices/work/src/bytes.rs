//! Commands on bytes. Chunks may be cut anywhere.

use crate::{Error, of_length};

/// Fills a chunk that begins `at` bytes into the operand with what the operand is to hold: `pattern`, little-endian, over
/// and over from its first byte.
pub fn fill(into: &mut [u8], pattern: u64, at: u64) {
    let mut pattern = pattern.to_le_bytes();
    pattern.rotate_left((at % 8) as usize);
    let (words, rest) = into.as_chunks_mut();
    words.fill(pattern);
    for (byte, value) in rest.iter_mut().zip(pattern) {
        *byte = value;
    }
}

/// Copies a chunk.
///
/// # Errors
///
/// The lengths differ. Nothing is copied.
pub fn copy(from: &[u8], into: &mut [u8]) -> Result<(), Error> {
    of_length("source", from.len(), Some(into.len()))?;
    into.copy_from_slice(from);
    Ok(())
}
