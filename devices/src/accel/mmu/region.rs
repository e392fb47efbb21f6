//! The part of a device's memory that holds page tables.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::TableError;

/// Bytes that a table takes, of whatever level.
pub const TABLE_SIZE: u64 = 4096;

/// Room for tables, shared by the address spaces of a device.
#[derive(Debug)]
pub struct Region {
    total: u64,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    untouched: Range<u64>,
    returned: Vec<u64>,
}

impl Region {
    /// Bytes `bytes` of the device's memory, rounded inward to whole tables.
    pub fn new(bytes: Range<u64>) -> Arc<Self> {
        let untouched = bytes.start.div_ceil(TABLE_SIZE)..bytes.end / TABLE_SIZE;
        Arc::new(Self {
            total: untouched.end.saturating_sub(untouched.start),
            free: Mutex::new(Free {
                untouched,
                returned: Vec::new(),
            }),
        })
    }

    /// How many more tables fit.
    pub fn free_tables(&self) -> u64 {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.count()
    }

    /// Byte offsets of `wanted` tables with anything in them: all or none.
    pub(super) fn take(&self, wanted: u64) -> Result<Vec<u64>, TableError> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, total) = (free.count(), self.total);
        if count < wanted {
            let free = count;
            return Err(TableError::NoTables {
                wanted,
                free,
                total,
            });
        }
        Ok((0..wanted).filter_map(|_| free.pop()).collect())
    }

    pub(super) fn give_back(&self, tables: impl IntoIterator<Item = u64>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.returned.extend(tables);
    }
}

impl Free {
    fn count(&self) -> u64 {
        let untouched = self.untouched.end.saturating_sub(self.untouched.start);
        untouched + self.returned.len() as u64
    }

    fn pop(&mut self) -> Option<u64> {
        self.returned
            .pop()
            .or_else(|| self.untouched.next().map(|number| number * TABLE_SIZE))
    }
}

/// Tables that are linked nowhere any more, in which a unit may still be walking. Their room is free when this is
/// dropped: after the invalidation of what was unmapped has returned.
#[derive(Debug)]
#[must_use = "to be kept until the invalidation has returned"]
pub struct Retired {
    pub(super) region: Arc<Region>,
    pub(super) tables: Vec<u64>,
}

impl Drop for Retired {
    fn drop(&mut self) {
        self.region.give_back(self.tables.drain(..));
    }
}
