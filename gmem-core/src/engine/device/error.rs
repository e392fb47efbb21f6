//! Why an accelerator is not attached, or does not get its pages.

use crate::engine::{FaultError, FreeError, MigrateError};
use crate::hnode::device::{Device, MapError};
use crate::page::PageNo;

/// Why an accelerator does not get its pages. Each page is where it was, or in host RAM, or within its reach.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The address is not guest RAM.
    #[error("{page} is not guest RAM")]
    NotRam {
        /// The page.
        page: PageNo,
    },
    /// A page of the granule may not leave the vCPUs' reach.
    #[error("{page} is pinned where it is; unpin it first")]
    Pinned {
        /// The page.
        page: PageNo,
    },
    /// A page could not be had for long: somebody reads or writes it directly.
    #[error("{page} is busy: a device of the host uses it directly")]
    Busy {
        /// The page.
        page: PageNo,
    },
    /// There is no room, in the accelerator's memory or for what would have to leave it.
    #[error(
        "{name} has no room for {pages} pages more, and host and tiers none for what would make way; make a tier larger"
    )]
    Full {
        /// The accelerator's name.
        name: String,
        /// What it wanted.
        pages: usize,
    },
    /// The accelerator is not attached.
    #[error("no accelerator is attached as hnode {0}")]
    Detached(u8),
    /// Its page tables do not take the mapping.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Pages could not be freed, as advised.
    #[error(transparent)]
    Free(#[from] FreeError),
    /// Pages could not be pinned, or unpinned, as advised.
    #[error(transparent)]
    Pin(#[from] MigrateError),
    /// The microVM cannot go on.
    #[error(transparent)]
    Failed(#[from] FaultError),
}

impl DeviceError {
    pub(super) fn full(device: &dyn Device, pages: usize) -> Self {
        Self::Full {
            name: device.name().to_owned(),
            pages,
        }
    }
}

/// Why an accelerator cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// An entry cannot name more hnodes.
    #[error("{0} tiers and accelerators are too many for one address space: at most 15")]
    TooMany(usize),
    /// Its granule is none.
    #[error("a granule of {0} pages is not a power of two from 1 to 64")]
    Granule(usize),
    /// It has no room for page tables.
    #[error(transparent)]
    Map(#[from] MapError),
}
