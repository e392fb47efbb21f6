//! What is to hold a guest's memory.

use std::path::PathBuf;

use gmem_core::hnode::Kind;
use gmem_core::page::Unit;

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
    /// A file.
    File {
        /// Size.
        bytes: u64,
        /// A file to be made, or a directory to make one in.
        path: PathBuf,
    },
}

impl Lower {
    /// The hnode's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hbm { .. } => Kind::Hbm,
            Self::Zip { .. } => Kind::Zip,
            Self::File { .. } => Kind::File,
        }
    }
}
