//! One request: a buffer to fill.

use vm_memory::GuestMemoryMmap;

use crate::virtio::{Broken, Buffers, Chain, Span};

/// Bytes given in one request, at most: a driver may ask for 4 GiB at once, and gets a page.
pub const MAX_BYTES: usize = 4 << 10;

/// A buffer that waits for random bytes.
#[derive(Debug)]
pub struct Request {
    /// What names the request when it is given back.
    pub head: u16,
    room: Span,
}

impl Request {
    /// The request in `chain`.
    pub fn parse(chain: Chain<'_>) -> Result<Self, Broken> {
        let mut buffers = Buffers::of(chain)?;
        if !buffers.readable.is_empty() {
            return Err(Broken("a request for entropy that brings bytes".into()));
        }
        Ok(Self {
            head: buffers.head,
            room: buffers.writable.take_front(MAX_BYTES),
        })
    }

    /// Fills the buffer; how many bytes. None, if the host has no random bytes.
    pub fn fill(&self, memory: &GuestMemoryMmap) -> Result<Option<usize>, Broken> {
        let mut bytes = vec![0; self.room.len()];
        match getrandom::fill(&mut bytes) {
            Ok(()) => Ok(Some(self.room.write(memory, &bytes)?)),
            Err(_) => Ok(None),
        }
    }
}
