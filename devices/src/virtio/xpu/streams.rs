//! Who carries commands out.

use gmem_core::accel::Traffic;

use crate::accel::{Command, CommandError, Stream, StreamFull};

/// What is called when a command is done, on a thread of the stream's. It must not wait for the stream.
pub type Done = Box<dyn FnOnce(Result<u64, CommandError>) + Send>;

/// Why an accelerator has no streams.
#[derive(Debug, thiserror::Error)]
#[error("accelerator {name} cannot begin: {cause}")]
pub struct StreamsError {
    /// Its name.
    pub name: String,
    /// Why.
    pub cause: String,
}

/// An accelerator, when its memory is managed.
pub trait Accelerator: Send {
    /// The node of the address space that its memory is.
    fn node(&self) -> u32;

    /// What crossed its link so far.
    fn traffic(&self) -> Traffic;

    /// Its streams. Asked for once, when the driver is ready first.
    fn streams(&mut self) -> Result<Box<dyn Streams>, StreamsError>;
}

/// The streams of an accelerator. Each carries out its commands in their order.
pub trait Streams: Send {
    /// Puts a command behind those of stream `stream`.
    fn submit(&self, stream: usize, command: Command, done: Done) -> Result<(), StreamFull>;

    /// Whether operands come as the accelerator touches them, from the next command on; otherwise all are brought before a
    /// command begins.
    fn set_faults(&self, faults: bool);

    /// Ends what is under way, at the next page, and what waits. All are told before this returns, and nothing of them
    /// touches memory any more.
    fn abort(&self);

    /// Waits until all that was submitted is done.
    fn synchronize(&self);
}

impl Streams for Vec<Stream> {
    fn submit(&self, stream: usize, command: Command, done: Done) -> Result<(), StreamFull> {
        match self.get(stream) {
            Some(stream) => stream.submit(command, done),
            None => Err(StreamFull(0)),
        }
    }

    fn set_faults(&self, faults: bool) {
        self.iter().for_each(|stream| stream.set_faults(faults));
    }

    fn abort(&self) {
        self.iter().for_each(Stream::abort);
    }

    fn synchronize(&self) {
        self.iter().for_each(Stream::synchronize);
    }
}
