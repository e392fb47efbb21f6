//! What is to hold a guest's memory.

use std::path::PathBuf;

use gmem_core::hnode::{Kind, remote};
use gmem_core::page::Unit;
use gmem_core::pager::address::{Address, Admission};
use gmem_core::policy::Prefetching;

/// The host budget and what lies beneath it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How much host RAM the guest may have, bytes.
    pub budget: u64,
    /// What moves at once.
    pub unit: Unit,
    /// The tiers below, nearest first.
    pub lower: Vec<Lower>,
    /// Memory may be larger than what the tiers certainly hold.
    pub overcommit: bool,
    /// Full blocks of 4 KiB pages become huge pages, where the host offers them.
    pub huge: bool,
    /// What comes along with a touched page.
    pub prefetch: Prefetching,
}

/// A tier below the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Lower {
    /// Emulated accelerator memory.
    Hbm {
        /// Size.
        bytes: u64,
        /// Added to each transfer, microseconds.
        latency_us: f64,
        /// Bandwidth, 10^9 bytes a second; unlimited if not given.
        gbps: Option<f64>,
    },
    /// Compressed memory.
    Zip {
        /// Stored bytes, with metadata.
        bytes: u64,
    },
    /// The kernel's swap, alone beneath the host: memory stays plain.
    Swap {
        /// Size.
        bytes: u64,
    },
    /// A file.
    File {
        /// Size.
        bytes: u64,
        /// A file to be made, or a directory to make one in.
        path: PathBuf,
    },
    /// Somebody else's memory.
    Remote {
        /// Size.
        bytes: u64,
        /// What else it is to be.
        spec: RemoteSpec,
    },
}

/// Who holds the pages of a remote tier, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteSpec {
    /// Each of them holds all.
    pub holders: Vec<Address>,
    /// How they let it in.
    pub admission: Admission,
    /// How it behaves.
    pub options: remote::Options,
}

impl Plan {
    /// Bytes that the kernel's swap is to hold, if it is what lies beneath the host.
    pub fn swap(&self) -> Option<u64> {
        match self.lower[..] {
            [Lower::Swap { bytes }] => Some(bytes),
            _ => None,
        }
    }
}

impl Lower {
    /// The hnode's kind; `None` for swap, which is the kernel's.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Hbm { .. } => Some(Kind::Hbm),
            Self::Zip { .. } => Some(Kind::Zip),
            Self::Swap { .. } => None,
            Self::File { .. } => Some(Kind::File),
            Self::Remote { .. } => Some(Kind::Remote),
        }
    }
}
