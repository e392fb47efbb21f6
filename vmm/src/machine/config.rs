//! What a microVM is to be.

use std::path::PathBuf;
use std::sync::Arc;

use crate::devices::DeviceConfig;
use crate::memory::plan::Plan;
use crate::memory::server::Server;

/// What runs in the microVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The guest that comes with gmem.
    Bundled {
        /// Its ELF image.
        image: &'static [u8],
        /// `NAME key=value ...`
        workload: String,
        /// Words for its command line, before the workload.
        extra: String,
    },
    /// A kernel of the user's.
    Kernel {
        /// A 64-bit ELF file.
        path: PathBuf,
        /// Its command line.
        command_line: String,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
    },
}

/// A microVM to be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bytes of memory, a multiple of 4 KiB.
    pub memory: u64,
    /// What holds the memory; `None` is plain memory.
    pub plan: Option<Plan>,
    /// How many vCPUs, at least one.
    pub cpus: usize,
    /// What it runs.
    pub payload: Payload,
    /// Its virtio devices.
    pub devices: DeviceConfig,
}

/// What is decided for a microVM otherwise than by its configuration: for measurements.
#[derive(Clone, Default)]
pub struct Setting {
    /// The host CPU of each vCPU; dealt in turn if not given.
    pub cpus: Option<Vec<usize>>,
    /// Who serves the memory, in place of the configuration's plan.
    pub server: Option<Arc<dyn Server>>,
}
