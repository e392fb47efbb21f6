//! The guest's memory as devices use it.

use std::io;

use super::Incoming;
use vm_memory::GuestMemoryMmap;

/// The guest's memory.
///
/// A device may touch it at any time that it holds its lock: a page that is elsewhere comes back, as it does
/// for a vCPU. Nobody who serves pages may wait for a device.
pub trait DeviceMemory: Send + Sync {
    /// The guest-physical address space: what is mapped is RAM.
    fn view(&self) -> &GuestMemoryMmap;

    /// Requests by which the kernel may write to this memory, without a copy that this process makes: whoever makes one has it
    /// counted for as long as it lasts.
    fn incoming(&self) -> &Incoming;

    /// The guest gives back `len` bytes at guest-physical address `gpa`, both multiples of 4 KiB: their frames are
    /// freed wherever they are, and they read as zeros.
    ///
    /// # Errors
    ///
    /// The range is not all RAM, or the host refused. The pages are then as they were, or zeros.
    fn free(&self, gpa: u64, len: u64) -> io::Result<()>;
}
