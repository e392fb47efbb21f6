//! The memory system, as the device knows it.

use gmem_core::accel::Advice;

/// What a node is and has, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// See [`gmem_wire::gmem::kind`].
    pub kind: u64,
    /// What it may hold.
    pub capacity: u64,
    /// What it holds.
    pub used: u64,
    /// The most that it ever held.
    pub peak: u64,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// There is no such node, or an argument makes no sense.
    #[error("no such node, or an argument that makes no sense")]
    Invalid,
    /// A range is not all guest memory.
    #[error("a range is not all guest memory")]
    NotRam,
    /// There was no room.
    #[error("there is no room")]
    NoMemory,
    /// A page is pinned, or used directly at this moment.
    #[error("a page is pinned")]
    Pinned,
    /// The node cannot do it.
    #[error("the node cannot do that")]
    Unsupported,
    /// The host failed.
    #[error("{0}")]
    Failed(String),
}

/// The nodes of an address space, from 0 on. Called by the device's worker, which may wait for pages.
pub trait Nodes: Send {
    /// How many there are.
    fn count(&self) -> u32;

    /// What a node is and has.
    fn node(&self, node: u32) -> Option<Node>;

    /// Takes advice about `len` bytes from guest-physical address `address` on, in view of a node.
    fn advise(&self, node: u32, address: u64, len: u64, advice: Advice) -> Result<(), NodeError>;

    /// Copies; the ranges do not overlap. The copy then is in the node.
    fn copy(&self, node: u32, to: u64, from: u64, len: u64) -> Result<(), NodeError>;

    /// How many bytes of a range are in a node: of each page that the range touches, all.
    fn bytes_in(&self, node: u32, address: u64, len: u64) -> Result<u64, NodeError>;

    /// Limits how much of an accelerator's memory this address space may use.
    fn set_cap(&self, node: u32, bytes: u64) -> Result<(), NodeError>;
}
