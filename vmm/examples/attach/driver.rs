//! The driver's glue: all that it takes for the device to share a guest's memory, besides its MMU functions.

use std::error::Error;
use std::sync::Arc;

use gmem_core::accel::{Accelerator, Access, Attachment, Reach};
use gmem_core::engine::{DeviceError, Engine};
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::LocalMemory;
use gmem_core::page::{PAGE_SIZE, PageNo};

use super::mmu::Tables;

/// A device that adds numbers up, in memory of its own.
pub struct Adder {
    memory: Arc<LocalMemory>,
    tables: Arc<Tables>,
    attachment: Attachment,
}

impl Adder {
    /// A device with `bytes` of memory, in the address space of `engine`.
    pub fn attach(engine: &Arc<Engine>, bytes: u64) -> Result<Self, Box<dyn Error>> {
        // Its memory: 2 us and 8 GB/s away. Its tables are not in it, so nothing of it is reserved.
        let memory = Arc::new(LocalMemory::new(bytes, 0, Link::new(2.0, 8.0))?);
        let tables = Arc::new(Tables::default());
        let pmap = Arc::clone(&tables);
        let accelerator = Accelerator::new("adder", Arc::clone(&memory), pmap);
        Ok(Self {
            attachment: accelerator.attach(engine)?,
            memory,
            tables,
        })
    }

    /// Adds up the bytes of a guest-physical page, wherever it is; the result goes into its first word.
    pub fn add_up(&self, page: PageNo) -> Result<u64, DeviceError> {
        loop {
            if let Some(sum) = self.try_add_up(page) {
                return Ok(sum);
            }
            // The device has faulted, and holds nothing that an invalidation waits for. Then it tries again.
            self.attachment.fault(page, Access::Write)?;
        }
    }

    /// What the device does by itself; `None` if its tables do not let it.
    fn try_add_up(&self, page: PageNo) -> Option<u64> {
        let tables = self.tables.enter();
        let Reach::Local {
            frame,
            writable: true,
        } = *tables.get(&(self.attachment.context(), page))?
        else {
            return None;
        };
        let at = frame.0 as usize * PAGE_SIZE;
        let mut bytes = [0; PAGE_SIZE];
        self.memory.read(at, &mut bytes);
        let sum = bytes.iter().map(|byte| u64::from(*byte)).sum();
        self.memory.write(at, &u64::to_le_bytes(sum));
        Some(sum)
    }

    /// Gives every page back and goes.
    pub fn detach(self) -> Result<(), DeviceError> {
        self.attachment.detach().map_err(|(_, error)| error)
    }
}
