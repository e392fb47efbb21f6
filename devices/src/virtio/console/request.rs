//! A buffer to fill with input, a buffer of output.

use vm_memory::GuestMemoryMmap;

use super::input::Input;
use super::output::BUFFER_SIZE;
use crate::virtio::{Broken, Buffers, Chain};

/// Bytes of input in one buffer, at most.
const INPUT_MAX: usize = 4 << 10;

/// A buffer that waits for input, as it is taken from the queue.
pub(super) fn receive(
    chain: Chain<'_>,
    input: &mut Input,
    memory: &GuestMemoryMmap,
) -> Result<Received, Broken> {
    let buffers = Buffers::of(chain)?;
    if !buffers.readable.is_empty() {
        return Err(Broken("a buffer for input that brings bytes".into()));
    }
    let head = buffers.head;
    let room = buffers.writable.len().min(INPUT_MAX);
    if room == 0 {
        // Reading nothing looks like the end.
        return Ok(Received::Done { head, len: 0 });
    }
    let mut bytes = vec![0; room];
    match input.read(&mut bytes) {
        0 => Ok(Received::Nothing),
        len => {
            buffers.writable.write(memory, &bytes[..len])?;
            Ok(Received::Done { head, len })
        }
    }
}

/// What became of a buffer for input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// It may be given back, with so many bytes.
    Done { head: u16, len: usize },
    /// There is no input now.
    Nothing,
}

/// A buffer of output.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) head: u16,
    /// What to write.
    pub(super) bytes: Vec<u8>,
    /// How much more there was than is ever kept.
    pub(super) excess: u64,
}

/// The output in `chain`.
pub(super) fn send(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Sent, Broken> {
    let buffers = Buffers::of(chain)?;
    if !buffers.writable.is_empty() {
        return Err(Broken("a buffer of output that wants bytes".into()));
    }
    let len = buffers.readable.len();
    let mut bytes = vec![0; len.min(BUFFER_SIZE)];
    buffers.readable.read(memory, &mut bytes)?;
    Ok(Sent {
        head: buffers.head,
        excess: (len - bytes.len()) as u64,
        bytes,
    })
}
