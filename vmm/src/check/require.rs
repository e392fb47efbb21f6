//! The quick checks at the start of a microVM: microseconds, and the first thing missing ends it.

use thiserror::Error;

use super::{Host, Requirement, Status, kernel, kvm, swap, userfault};

/// This host lacks something that microVMs need. Displayed as one line.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("this host lacks {name}: {found}; {remedy} (`gmem check` lists all that is needed)")]
pub struct HostLacks {
    /// Name of the [`Requirement`].
    pub name: &'static str,
    /// What is there instead.
    pub found: String,
    /// How to get it.
    pub remedy: String,
}

/// Linux is new enough.
///
/// # Errors
///
/// It is older than 6.8.
pub fn require_kernel(host: &Host) -> Result<(), HostLacks> {
    first_missing([kernel::linux(host)])
}

/// KVM can be opened and has what gmem needs.
///
/// # Errors
///
/// The device is missing or not permitted, or KVM lacks a capability.
pub fn require_kvm(host: &Host) -> Result<(), HostLacks> {
    first_missing(kvm::all(host))
}

/// A userfaultfd that handles the kernel's own faults can be opened and has what gmem needs. Call it only
/// where memory is to be managed: `--tier none` does without.
///
/// # Errors
///
/// It is not there, not permitted, or lacks a feature.
pub fn require_userfaultfd(host: &Host) -> Result<(), HostLacks> {
    first_missing(userfault::all(host))
}

/// The kernel's swap can hold `bytes` that do not fit a host budget of `budget` bytes: swap of that size is free, and
/// this process is in a memory cgroup whose limit is that budget. Call it only where memory has a tier `swap`.
///
/// # Errors
///
/// There is too little swap, no group, or no limit that holds the microVM to its budget; or it may not be asked to
/// reclaim.
pub fn require_swap(host: &Host, budget: u64, bytes: u64) -> Result<(), HostLacks> {
    first_missing(swap::for_budget(host, budget, bytes))
}

fn first_missing(all: impl IntoIterator<Item = Requirement>) -> Result<(), HostLacks> {
    for it in all {
        if let Status::Missing { found, remedy } = it.status {
            return Err(HostLacks {
                name: it.name,
                found,
                remedy,
            });
        }
    }
    Ok(())
}
