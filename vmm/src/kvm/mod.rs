//! The microVM's processor side: KVM, its vCPUs and the threads that run them.
//!
//! [`host`] alone knows what differs between hosts. [`vm`] and [`vcpu`] set things up, [`run_loop`] turns
//! exits into decisions, [`control`] starts, pauses and stops the vCPU threads.
pub mod affinity;
pub mod control;
mod cpuid;
mod entry;
pub mod exits;
mod fallback;
mod firmware;
mod gate;
pub mod host;
pub mod kick;
mod pace;
pub mod run_loop;
pub mod software;
pub mod vcpu;
pub mod vm;

/// A KVM call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}; look at `dmesg` for KVM's reason")]
pub struct KvmError {
    /// Name of the call, as in the kernel's documentation.
    pub call: &'static str,
    /// What the kernel said.
    pub source: kvm_ioctls::Error,
}

/// For `map_err`: names the call that failed.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError { call, source }
}
