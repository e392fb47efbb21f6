//! The hook for instructions that the host's KVM cannot emulate.

use kvm_ioctls::VcpuFd;

use crate::memory::ram::GuestRam;

/// An instruction that the hook cannot finish either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(
    /// One line: the instruction, why not, and what to do.
    pub String,
);

/// Finishes an instruction that KVM gave up on.
pub trait Fallback: Send + Sync {
    /// Executes the instruction at the vCPU's RIP: its effect on registers and memory, and RIP moved behind
    /// it, or an exception queued. Called on the vCPU's own thread, outside KVM_RUN.
    ///
    /// `bytes` are the instruction's as far as KVM gave them, perhaps none, perhaps more than it has.
    fn emulate(&self, vcpu: &VcpuFd, ram: &GuestRam, bytes: &[u8]) -> Result<(), Unsupported>;
}

/// Finishes nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoFallback;

impl Fallback for NoFallback {
    fn emulate(&self, _: &VcpuFd, _: &GuestRam, bytes: &[u8]) -> Result<(), Unsupported> {
        Err(Unsupported(format!(
            "this host's KVM cannot emulate the guest's instruction (bytes {bytes:02x?}); run the code at CPL 3 \
             or on a host with VMX or SVM"
        )))
    }
}
