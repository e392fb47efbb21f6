//! Why a vCPU stopped for good, and what is said about it.

use std::fmt;

/// Where a vCPU was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Instruction pointer.
    pub rip: u64,
    /// Current privilege level, 0 (kernel) to 3 (user).
    pub cpl: u8,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rip {:#x}, CPL {}", self.rip, self.cpl)
    }
}

/// What an access was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read of data.
    Read,
    /// A write of data.
    Write,
    /// An instruction fetch.
    Fetch,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "wrote",
            Self::Fetch => "ran code",
        })
    }
}

/// The guest did something that it cannot go on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// An exception while a double fault was delivered.
    #[error(
        "the guest triple-faulted: an exception found no usable handler; check its IDT, stack and page tables"
    )]
    TripleFault,
    /// An access to guest-physical addresses where there is neither memory nor a device.
    #[error(
        "the guest {access} outside its memory: {len} bytes at guest-physical address {address:#x}, where it has neither memory ({memory} bytes) nor a device; give it more by --memory or mend the guest"
    )]
    OutsideMemory {
        /// What the access was for.
        access: Access,
        /// Its length, bytes.
        len: usize,
        /// Its first guest-physical address.
        address: u64,
        /// How much memory the guest has, bytes.
        memory: u64,
    },
    /// An instruction that neither KVM nor the fallback can execute: what the fallback says.
    #[error("{0}")]
    CannotEmulate(String),
    /// KVM could not go on with the guest's state.
    #[error("KVM gave up on the guest's state: internal error {suberror}, data {data:x?}")]
    Internal {
        /// KVM_INTERNAL_ERROR_* number.
        suberror: u32,
        /// What KVM says about it.
        data: Vec<u64>,
    },
}

/// The monitor or the host's KVM failed; the guest is not to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VcpuError {
    /// KVM took an address inside a memory slot for a device.
    #[error(
        "the guest's access ({access}, {len} bytes) to its memory at {address:#x} reached no page: the page is lost or poisoned on the host; look at `dmesg`"
    )]
    MemoryLost {
        /// What the access was for.
        access: Access,
        /// Its length, bytes.
        len: usize,
        /// Its first guest-physical address.
        address: u64,
    },
    /// KVM could not resolve a guest page on the host.
    #[error(
        "KVM could not reach the guest's memory{}: the host refused the page; look at `dmesg` and the host's free memory", At(*.address)
    )]
    MemoryFault {
        /// The guest-physical address, where KVM says so.
        address: Option<u64>,
    },
    /// KVM_RUN failed.
    #[error("KVM_RUN failed: {0}; look at `dmesg` for KVM's reason")]
    Run(kvm_ioctls::Error),
    /// The processor refused the guest's state.
    #[error("the processor refused to enter the guest, hardware reason {0:#x}; look at `dmesg`")]
    Entry(u64),
    /// An exit that no device or setting of this monitor asks for.
    #[error("KVM_RUN returned an exit that this version does not know: {0}")]
    UnexpectedExit(String),
    /// A register call failed.
    #[error("{0}")]
    Registers(String),
    /// The thread panicked: a bug in the monitor.
    #[error("a vCPU thread panicked; this is a bug in gmem")]
    Panicked,
}

/// Why a vCPU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was told to.
    Stopped,
    /// The guest wrote this verdict to the exit port.
    Exit(u32),
    /// The guest reset the machine: it reboots, or powers off.
    Reset,
    /// The guest failed.
    Guest(GuestFailure),
    /// The monitor or the host failed.
    Error(VcpuError),
}

/// The end of a vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// Where it was, if KVM could say.
    pub position: Option<Position>,
}

/// " at ADDRESS", or nothing.
struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, " at guest-physical address {address:#x}"),
            None => Ok(()),
        }
    }
}
