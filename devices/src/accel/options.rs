//! What an accelerator is to be, and why it is not.

use std::io;

use gmem_core::accel::Placement;
use gmem_core::engine::AttachError;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::Speeds;

use super::arch::Arch;

/// What an accelerator is to be.
pub struct CardOptions {
    /// Its micro-architecture.
    pub arch: Arch,
    /// Its name in reports.
    pub name: String,
    /// Its memory, bytes, page tables included.
    pub memory: u64,
    /// Its link to the host.
    pub link: Link,
    /// How fast it reaches memory itself.
    pub speeds: Speeds,
    /// Execution units.
    pub units: usize,
    /// Where pages go that it touches.
    pub placement: Placement,
}

/// Why an accelerator does not begin.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Its memory does not hold its page tables and a page.
    #[error(
        "{name} has {memory} bytes of memory, and page tables for this guest take {tables} of them; give it more"
    )]
    Memory {
        /// Its name.
        name: String,
        /// What it was given.
        memory: u64,
        /// What its page tables may take.
        tables: u64,
    },
    /// The host has no memory for it, or no thread.
    #[error("{0}: {1}")]
    Host(String, io::Error),
    /// It cannot be attached.
    #[error("{0} cannot be attached: {1}")]
    Attach(String, AttachError),
    /// It is attached to no address space yet, or has no units left.
    #[error("{0} has no execution unit free")]
    NoUnit(String),
}
