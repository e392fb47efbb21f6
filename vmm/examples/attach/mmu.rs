//! The device's page tables, and the MMU functions that its driver offers: the other half of a port.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use gmem_core::accel::{ContextId, Pmap, Reach};
use gmem_core::hnode::device::MapError;
use gmem_core::page::PageNo;

/// Page tables as simple as can be: a map. Who reads it holds the lock for as long as it uses what it found, so that
/// who changes it has the device's acknowledgement when it has the lock.
#[derive(Default)]
pub struct Tables(RwLock<HashMap<(ContextId, PageNo), Reach>>);

impl Tables {
    /// The device begins an access.
    pub fn enter(&self) -> RwLockReadGuard<'_, HashMap<(ContextId, PageNo), Reach>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, HashMap<(ContextId, PageNo), Reach>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pmap for Tables {
    fn granule(&self) -> usize {
        1
    }

    fn create(&self) -> Result<ContextId, MapError> {
        Ok(ContextId(0))
    }

    fn destroy(&self, context: ContextId) {
        self.change().retain(|(of, _), _| *of != context);
    }

    fn map(&self, context: ContextId, page: PageNo, reach: Reach) -> Result<(), MapError> {
        self.change().insert((context, page), reach);
        Ok(())
    }

    fn unmap(&self, context: ContextId, page: PageNo, pages: usize) {
        let mut tables = self.change();
        for page in (0..pages as u64).map(|i| page.add(i)) {
            tables.remove(&(context, page));
        }
    }
}
