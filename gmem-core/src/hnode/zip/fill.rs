//! Pages filled with one 64-bit value: a small dictionary of the values, shared by count.

use std::sync::Mutex;

/// How many different values are kept; a page with another one is compressed like any other.
const LIMIT: usize = 4096;

/// The value that fills the whole of `bytes` (a multiple of 8), if one does.
pub fn value(bytes: &[u8]) -> Option<u64> {
    let first: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
    // Most pages differ within the first words.
    bytes
        .chunks_exact(8)
        .all(|word| word == first)
        .then(|| u64::from_ne_bytes(first))
}

/// Whether all of `bytes` are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    value(bytes) == Some(0)
}

/// Values with the number of pages that each fills.
#[derive(Default)]
pub(super) struct Fills(Mutex<Vec<(u64, u32)>>);

impl Fills {
    /// Index of `value`, counted once more; `None` if the dictionary is full.
    pub(super) fn share(&self, value: u64) -> Option<u32> {
        let mut values = self.lock();
        let mut unused = None;
        for (index, (known, count)) in values.iter_mut().enumerate() {
            if *count > 0 && *known == value && *count < u32::MAX {
                *count += 1;
                return Some(index as u32);
            }
            if *count == 0 {
                unused.get_or_insert(index);
            }
        }
        let index = match unused {
            Some(index) => {
                values[index] = (value, 1);
                index
            }
            None if values.len() < LIMIT => {
                values.push((value, 1));
                values.len() - 1
            }
            None => return None,
        };
        Some(index as u32)
    }

    /// The value at `index`, which is shared by at least the caller.
    pub(super) fn value(&self, index: u32) -> u64 {
        self.lock()[index as usize].0
    }

    /// Counts one page less at `index`.
    pub(super) fn release(&self, index: u32) {
        let mut values = self.lock();
        let count = &mut values[index as usize].1;
        debug_assert!(*count > 0, "released more often than shared");
        *count = count.saturating_sub(1);
        while values.last().is_some_and(|(_, count)| *count == 0) {
            values.pop();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u32)>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
