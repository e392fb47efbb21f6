//! An emulated accelerator: its memory, its page tables, its execution units; and what a driver does with the tables.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gmem_core::accel::{ContextId, Pmap, Reach};
use gmem_core::hnode::device::MapError;
use gmem_core::hnode::local::LocalMemory as Hbm;
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange};

use super::mmu::{
    Access, Aperture, BadAddress, Format, LocalMemory, PageTable, Region, Rights, Shootdown,
    TableError, Target, Tlb, Unit,
};
use super::operand::HostMemory;

/// Sets and ways of a unit's TLB.
const TLB: (usize, usize) = (64, 4);

impl LocalMemory for Hbm {
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress> {
        let size = self.size();
        match at.is_multiple_of(8) && at < size {
            true => Ok(Self::word(self, at as usize)),
            false => Err(BadAddress { at, size }),
        }
    }
}

/// An accelerator whose page tables have format `F`.
pub struct Hardware<F: Format> {
    memory: Arc<Hbm>,
    region: Arc<Region>,
    units: usize,
    contexts: Mutex<HashMap<ContextId, Arc<Context<F>>>>,
    next: AtomicU32,
}

/// One address space in it.
pub(super) struct Context<F: Format> {
    table: PageTable<F, Arc<Hbm>>,
    shootdown: Arc<Shootdown>,
    /// Those that nobody has taken yet.
    units: Mutex<Vec<Unit>>,
    /// The guest's memory, if its units may use that in place.
    host: OnceLock<Arc<dyn HostMemory>>,
}

impl<F: Format> Hardware<F> {
    /// An accelerator with `units` execution units. Its tables lie in the part of `memory` that is kept from frames.
    pub fn new(memory: Arc<Hbm>, units: usize) -> Arc<Self> {
        Arc::new(Self {
            region: Region::new(memory.reserved()),
            memory,
            units,
            contexts: Mutex::default(),
            next: AtomicU32::new(0),
        })
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<Hbm> {
        &self.memory
    }

    pub(super) fn context(&self, id: ContextId) -> Option<Arc<Context<F>>> {
        self.contexts().get(&id).cloned()
    }

    fn contexts(&self) -> MutexGuard<'_, HashMap<ContextId, Arc<Context<F>>>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, id: ContextId) -> Result<Arc<Context<F>>, MapError> {
        let gone = || MapError::Gone(F::NAME.into(), format!("it has no address space {}", id.0));
        self.context(id).ok_or_else(gone)
    }
}

impl<F: Format> Context<F> {
    /// Byte offset of the root table.
    pub(super) fn root(&self) -> u64 {
        self.table.root()
    }

    /// An execution unit, if one is left.
    pub(super) fn take_unit(&self) -> Option<Unit> {
        self.units
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
    }

    /// Lets all units use the guest's memory in place, from now on. Said once.
    pub(super) fn let_reach(&self, host: Arc<dyn HostMemory>) {
        let _ = self.host.set(host);
    }

    pub(super) fn host(&self) -> Option<&dyn HostMemory> {
        self.host.get().map(|host| &**host)
    }

    fn forget(&self, range: PageRange) -> Result<bool, TableError> {
        let mut any = false;
        let retired = self.table.unmap(range, |_| any = true)?;
        // Pages of one granule have locks of their own: somebody else may have unmapped it for another of them, and not yet
        // have its acknowledgement. Who finds nothing mapped waits like who did.
        if any || F::granule() > 1 {
            self.shootdown.invalidate(&[range]);
        }
        drop(retired);
        Ok(any)
    }
}

fn refused<F: Format>(error: TableError) -> MapError {
    match error {
        TableError::NoTables { .. } => MapError::Tables(F::NAME.into()),
        error => MapError::Gone(F::NAME.into(), error.to_string()),
    }
}

impl<F: Format> Pmap for Hardware<F> {
    fn granule(&self) -> usize {
        F::granule() as usize
    }

    fn create(&self) -> Result<ContextId, MapError> {
        let table = PageTable::new(Arc::clone(&self.memory), Arc::clone(&self.region));
        let sizes = || {
            F::LEVELS
                .iter()
                .filter(|level| level.maps)
                .map(|level| level.pages())
        };
        let tlbs = (0..self.units).map(|_| Tlb::new(TLB.0, TLB.1, sizes()));
        let (shootdown, units) = Shootdown::new(tlbs);
        let context = Context {
            table: table.map_err(refused::<F>)?,
            shootdown,
            units: Mutex::new(units),
            host: OnceLock::new(),
        };
        let id = ContextId(self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        self.contexts().insert(id, Arc::new(context));
        Ok(id)
    }

    fn destroy(&self, id: ContextId) {
        self.contexts().remove(&id);
    }

    fn map(&self, id: ContextId, page: PageNo, reach: Reach) -> Result<(), MapError> {
        let context = self.known(id)?;
        let range = PageRange::new(page, F::granule());
        let (target, rights) = match reach {
            Reach::Local { frame, writable } => {
                let rights = if writable {
                    Rights::Atomic
                } else {
                    Rights::Read
                };
                (Target::local(frame.0 * PAGE_SIZE as u64), rights)
            }
            Reach::Host => {
                let (aperture, address) = (Aperture::System, page.address());
                (Target { aperture, address }, Rights::Atomic)
            }
        };
        let map = || context.table.map(range, target, rights);
        let mapped = map().or_else(|error| {
            let TableError::Mapped(_) = error else {
                return Err(error);
            };
            match context.table.walk(page, Access::Read) {
                Ok(there) if there.of(page) == target && there.rights == rights => Ok(()),
                // More rights: an old translation with fewer is walked for again.
                Ok(there) if there.of(page) == target && there.rights < rights => {
                    context.table.protect(range, rights)
                }
                _ => context.forget(range).and_then(|_| map()),
            }
        });
        mapped.map_err(refused::<F>)
    }

    fn reaches_host(&self, id: ContextId) -> bool {
        self.context(id)
            .is_some_and(|context| context.host().is_some())
    }

    fn unmap(&self, id: ContextId, page: PageNo, pages: usize) {
        let Some(context) = self.context(id) else {
            return;
        };
        let granule = F::granule();
        let (first, end) = (page.0 / granule, (page.0 + pages as u64).div_ceil(granule));
        let range = PageRange::new(PageNo(first * granule), (end - first) * granule);
        if context.forget(range).is_err() {
            // The tables are damaged, by the accelerator itself: whatever it still reaches, it forgets.
            context.shootdown.invalidate(&[range]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use gmem_core::hnode::link::Link;
    use gmem_core::table::Frame;

    use super::super::mmu::Gpu;
    use super::*;

    #[test]
    fn who_takes_another_page_of_a_granule_away_waits_for_the_acknowledgement_too() {
        let memory = Hbm::new(256 << 12, 64 << 12, Link::new(0.0, 0.0)).unwrap();
        let hardware = Hardware::<Gpu>::new(Arc::new(memory), 1);
        let id = hardware.create().unwrap();
        let reach = Reach::Local {
            frame: Frame(16),
            writable: true,
        };
        hardware.map(id, PageNo(0), reach).unwrap();
        let context = hardware.context(id).unwrap();
        let mut unit = context.take_unit().unwrap();
        let mut inside = unit.enter();
        let (memory, root) = (&*hardware.memory, context.root());
        inside
            .translate::<Gpu>(memory, root, PageNo(3), Access::Write)
            .unwrap();
        thread::scope(|scope| {
            let first = scope.spawn(|| hardware.unmap(id, PageNo(0), 1));
            while context.table.walk(PageNo(0), Access::Read).is_ok() {
                thread::yield_now();
            }
            // The granule is in no table any more, but the unit is in the middle of a chunk.
            let second = scope.spawn(|| hardware.unmap(id, PageNo(3), 1));
            thread::sleep(Duration::from_millis(30));
            assert!(!first.is_finished(), "without the acknowledgement");
            assert!(!second.is_finished(), "without the acknowledgement");
            drop(inside);
        });
    }
}
