//! The device's own memory, as its MMU and its driver reach the tables in it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// There is no word at this byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no word at {at:#x}: device memory has {size:#x} bytes, in words of 8")]
pub struct BadAddress {
    /// Byte offset asked for.
    pub at: u64,
    /// Bytes that there are.
    pub size: u64,
}

/// Words of a device's memory. Tables are only ever touched by atomic operations on them.
pub trait LocalMemory: Send + Sync {
    /// The 64-bit word at byte offset `at`.
    ///
    /// # Errors
    ///
    /// `at` is not a multiple of 8, or beyond the memory's end.
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress>;
}

impl LocalMemory for [AtomicU64] {
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress> {
        let size = self.len() as u64 * 8;
        let index = usize::try_from(at / 8).ok();
        let word = index.filter(|_| at.is_multiple_of(8));
        let word = word.and_then(|index| self.get(index));
        word.ok_or(BadAddress { at, size })
    }
}

impl<M: LocalMemory + ?Sized> LocalMemory for Box<M> {
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress> {
        (**self).word(at)
    }
}

impl<M: LocalMemory + ?Sized> LocalMemory for Arc<M> {
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress> {
        (**self).word(at)
    }
}
