//! Embedding lookup: rows of a table, by index.

use core::ops::Range;

use crate::{Error, elements, of_length};

/// A table's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// Bytes of each.
    pub bytes: u64,
}

impl Rows {
    /// Which bytes of the table are row `index`.
    ///
    /// # Errors
    ///
    /// There is no such row, or it lies beyond 2^64 bytes.
    pub fn row(&self, index: u32) -> Result<Range<u64>, Error> {
        let start = u64::from(index).checked_mul(self.bytes);
        let end = start.and_then(|start| start.checked_add(self.bytes));
        match (start, end) {
            (Some(start), Some(end)) if u64::from(index) < self.count => Ok(start..end),
            _ => Err(Error::Row {
                index,
                rows: self.count,
            }),
        }
    }
}

/// Copies the rows of `table`, `row_bytes` each, that `indices` (u32) name, one after the other.
///
/// # Errors
///
/// Lengths that do not go together: nothing is copied. An index beyond the table: the rows before it are copied.
pub fn gather(
    table: &[u8],
    row_bytes: usize,
    indices: &[u8],
    into: &mut [u8],
) -> Result<(), Error> {
    let indices = elements(indices)?;
    of_length("result", into.len(), indices.len().checked_mul(row_bytes))?;
    let count = table.len().checked_div(row_bytes).unwrap_or(0);
    of_length("table", table.len(), Some(count * row_bytes))?;
    if row_bytes == 0 {
        return Ok(());
    }
    let rows = Rows {
        count: count as u64,
        bytes: row_bytes as u64,
    };
    for (index, into) in indices.iter().zip(into.chunks_exact_mut(row_bytes)) {
        let row = rows.row(u32::from_le_bytes(*index))?;
        into.copy_from_slice(&table[row.start as usize..row.end as usize]);
    }
    Ok(())
}
