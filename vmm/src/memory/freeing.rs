//! A guest's memory as devices use it: they touch it like a vCPU, and give back what the guest gave up.

use std::io;

use gmem_core::engine;
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange};
use gmem_devices::virtio::{DeviceMemory, Incoming};
use vm_memory::GuestMemoryMmap;

use super::managed::ManagedMemory;

/// Why memory was not given back.
#[derive(Debug, thiserror::Error)]
pub enum FreeError {
    /// The range is not made of pages.
    #[error(
        "{len:#x} bytes at guest-physical address {gpa:#x} are not whole pages: give multiples of 4096"
    )]
    NotPages {
        /// First address.
        gpa: u64,
        /// Length, bytes.
        len: u64,
    },
    /// Some of it is not RAM.
    #[error("{len:#x} bytes at guest-physical address {gpa:#x} are not all RAM")]
    NotRam {
        /// First address.
        gpa: u64,
        /// Length, bytes.
        len: u64,
    },
    /// Somebody else serves the memory.
    #[error("this microVM's memory is served by something that cannot take pages back")]
    Served,
    /// Some pages stayed as they were.
    #[error(
        "{pinned} pinned pages and {busy} pages that a device uses directly were not given back; give them \
         back when they are in use no more"
    )]
    InUse {
        /// Pages that are pinned.
        pinned: u64,
        /// Pages that the kernel would not move.
        busy: u64,
    },
    /// The microVM cannot go on.
    #[error(transparent)]
    Failed(#[from] engine::FreeError),
    /// The kernel refused.
    #[error("memory cannot be given back to the kernel: {0}")]
    System(io::Error),
}

impl From<FreeError> for io::Error {
    fn from(error: FreeError) -> Self {
        let kind = match &error {
            FreeError::NotPages { .. } | FreeError::NotRam { .. } => io::ErrorKind::InvalidInput,
            FreeError::Served => io::ErrorKind::Unsupported,
            FreeError::InUse { .. } => io::ErrorKind::ResourceBusy,
            FreeError::System(error) => error.kind(),
            FreeError::Failed(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl ManagedMemory {
    /// Frees `len` bytes at guest-physical address `gpa`, which the guest has given up: they read as zeros, and
    /// what held them is free for others.
    ///
    /// vCPUs and devices may run; an access that races with this finds the page as it was, or zeros. If memory is
    /// being armed, it waits until that is done.
    pub fn free(&self, gpa: u64, len: u64) -> Result<(), FreeError> {
        let page = PAGE_SIZE as u64;
        if !gpa.is_multiple_of(page) || !len.is_multiple_of(page) {
            return Err(FreeError::NotPages { gpa, len });
        }
        if len == 0 {
            return Ok(());
        }
        if !self.ram().contains(gpa, len) {
            return Err(FreeError::NotRam { gpa, len });
        }
        if self.is_served() {
            return Err(FreeError::Served);
        }
        let range = PageRange::new(PageNo::of_address(gpa), len / page);
        let plain = self.while_plain(|| self.ram().discard(gpa, len as usize));
        match (plain, self.engine()) {
            (Some(discarded), _) => discarded.map_err(FreeError::System),
            (None, Some(engine)) => self.free_armed(engine, range),
            // Armed is armed.
            (None, None) => Ok(()),
        }
    }

    fn free_armed(&self, engine: &engine::Engine, range: PageRange) -> Result<(), FreeError> {
        let freed = engine.free(range).inspect_err(|error| {
            if let engine::FreeError::Failed(error) = error {
                self.record_failure(error);
            }
        })?;
        match (freed.pinned, freed.busy) {
            (0, 0) => Ok(()),
            (pinned, busy) => Err(FreeError::InUse { pinned, busy }),
        }
    }
}

impl DeviceMemory for ManagedMemory {
    fn view(&self) -> &GuestMemoryMmap {
        self.ram().view()
    }

    fn incoming(&self) -> &Incoming {
        self.ram().incoming()
    }

    fn free(&self, gpa: u64, len: u64) -> io::Result<()> {
        Ok(Self::free(self, gpa, len)?)
    }
}
