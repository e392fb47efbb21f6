//! How the working set is cut up: data first, then what vCPUs and devices say to each other.
//!
//! Pieces begin at multiples of 64 KiB, the most that comes to an accelerator at once: what is used by one does not travel
//! because of what is beside it.
//!
//! | piece | what |
//! |---|---|
//! | data | pages of the workload |
//! | control | words that the vCPUs share, rings of the virtio-gmem and of the accelerators |
//! | areas | one for each accelerator: operands and results of its commands |

use super::{kvcache, layers};
use crate::accel::{gmem, xpu};
use crate::memory::{PAGE_SIZE, WorkingSet};
use crate::plan::{Plan, PlanError, Workload};

/// What pieces are rounded up to.
pub(super) const GRANULE: u64 = 64 << 10;
/// Batches that an accelerator has in flight in `gather`.
pub(super) const SLOTS: usize = 4;
/// Bytes of words that the vCPUs share.
const SHARED: u64 = PAGE_SIZE;

/// Where the pieces are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Pages of data, from the working set's first page on.
    pub(super) data_pages: u64,
    /// Where they begin.
    pub(super) data: u64,
    /// Words that the vCPUs share.
    pub(super) shared: u64,
    /// Memory of the virtio-gmem's driver.
    pub(super) gmem: u64,
    rings: u64,
    areas: u64,
    area: u64,
}

impl Layout {
    /// The layout of `set`, which is in one piece.
    ///
    /// # Errors
    ///
    /// There is no accelerator, or too little memory.
    pub(super) fn new(
        plan: &Plan,
        set: &WorkingSet,
        accelerators: usize,
    ) -> Result<Self, PlanError<'static>> {
        if accelerators == 0 {
            let workload = plan.name;
            return Err(PlanError::NoAccelerator { workload });
        }
        let (count, available) = (accelerators as u64, set.pages());
        let area = area(plan.workload, available, count);
        let control = SHARED + gmem::BYTES + xpu::BYTES * count;
        let control = control.next_multiple_of(GRANULE);
        let tail = control + area * count;
        let least = least_data(plan.workload, count);
        // What lies beyond the last multiple of 64 KiB is not used.
        let wanted = tail.saturating_add(least).saturating_add(GRANULE) / PAGE_SIZE;
        if wanted > available {
            return Err(PlanError::TooSmall { wanted, available });
        }
        let (data, end) = (set.address(0), set.end());
        let shared = end / GRANULE * GRANULE - tail;
        Ok(Self {
            data_pages: (shared - data) / PAGE_SIZE,
            data,
            shared,
            gmem: shared + SHARED,
            rings: shared + SHARED + gmem::BYTES,
            areas: shared + control,
            area,
        })
    }

    /// Memory of the driver of accelerator `number`.
    pub(super) fn rings(&self, number: usize) -> u64 {
        self.rings + xpu::BYTES * number as u64
    }

    /// Operands and results of accelerator `number`.
    pub(super) fn area(&self, number: usize) -> u64 {
        self.areas + self.area * number as u64
    }

    /// Bytes of data.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_pages * PAGE_SIZE
    }
}

/// Bytes of an accelerator's area.
fn area(workload: Workload, pages: u64, accelerators: u64) -> u64 {
    let whole = |bytes: u64| bytes.next_multiple_of(GRANULE);
    match workload {
        Workload::Gather { row, batch, .. } => {
            SLOTS as u64 * (whole(4 * batch) + whole(row * batch))
        }
        Workload::Layers { layers, rows, .. } => {
            // No more than if all of the working set were weights.
            let size = layers::size(pages * PAGE_SIZE, layers, accelerators);
            layers::Area::new(rows, size).bytes
        }
        Workload::KvCache { .. } => 2 * GRANULE,
        _ => 0,
    }
}

/// Bytes of data that the workload cannot do without.
fn least_data(workload: Workload, accelerators: u64) -> u64 {
    match workload {
        Workload::Layers { layers, .. } => layers * layers::least(accelerators),
        Workload::KvCache { sequences, .. } => {
            kvcache::least(sequences.unwrap_or(1).max(accelerators))
        }
        _ => GRANULE,
    }
}
