//! Why a microVM could not be built or started.

use std::io;

use crate::boot::BootError;
use crate::boot::elf::KernelError;
use crate::devices::DeviceError;
use crate::exit_code::ExitCode;
use crate::kvm::KvmError;
use crate::kvm::host::HostError;
use crate::memory::arming::ArmError;
use crate::memory::ram::RamError;

/// Why a microVM could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// What holds its memory.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// Its kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// What stands beside the kernel in memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Its devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More vCPUs than KVM offers.
    #[error("{found} vCPUs asked for, this host's KVM offers at most {limit}; lower --cpus")]
    TooManyVcpus {
        /// Asked for.
        found: usize,
        /// Most that work.
        limit: usize,
    },
    /// The host's KVM.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A KVM call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// CPUs or threads.
    #[error(
        "no threads for the vCPUs: {0}; look at `ulimit -u` and the cgroup's limit of processes"
    )]
    Threads(#[source] io::Error),
}

impl BuildError {
    /// Whose fault it is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Ram(_) | Self::Kernel(_) | Self::Boot(_) | Self::TooManyVcpus { .. } => {
                ExitCode::Usage
            }
            Self::Arm(error) if error.is_usage() => ExitCode::Usage,
            Self::Device(error) if error.is_usage() => ExitCode::Usage,
            Self::Arm(_) | Self::Device(_) | Self::Host(_) | Self::Kvm(_) | Self::Threads(_) => {
                ExitCode::HostLacks
            }
        }
    }
}
