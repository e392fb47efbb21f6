//! The hook for instructions that the host's KVM cannot emulate.

use kvm_ioctls::VcpuFd;

use crate::memory::ram::GuestRam;

/// An instruction that the hook cannot finish either.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(
    /// The instruction, and why not, in a few words.
    pub String,
);

/// Finishes an instruction that KVM gave up on.
pub trait Fallback: Send + Sync {
    /// Executes the instruction at the vCPU's RIP: its effect on registers and memory, and RIP moved behind
    /// it, or an exception queued. Called on the vCPU's own thread, outside KVM_RUN.
    ///
    /// `bytes` begins with the instruction: up to 15 bytes, fewer (or none) where KVM did not say and the
    /// next page is not mapped.
    fn emulate(&self, vcpu: &VcpuFd, ram: &GuestRam, bytes: &[u8]) -> Result<(), Unsupported>;
}

/// Finishes nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoFallback;

impl Fallback for NoFallback {
    fn emulate(&self, _: &VcpuFd, _: &GuestRam, _: &[u8]) -> Result<(), Unsupported> {
        Err(Unsupported("no instruction fallback in this build".into()))
    }
}
