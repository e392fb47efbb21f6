//! What messages travel over.

pub mod local;
mod socket;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod unix;

use std::io;
use std::time::Instant;

use pager_wire::{Header, Kind, Malformed, Status};

pub use crate::shared::SharedMemory;

/// Why a channel does not work any more. It is to be closed then.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side has gone.
    #[error("the other side has closed the connection")]
    Closed,
    /// The system says so.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The other side sent what is no message.
    #[error("what arrived is no message: {0}")]
    Malformed(Malformed),
    /// The other side has begun a message and does not end it, or does not take what it is sent.
    #[error("the other side stopped in the middle of a message")]
    Stalled,
}

impl From<Malformed> for ChannelError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A message whose header has been checked by itself. Its head is where [`Channel::receive`] was told to put it, its data
/// are still to be received.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// As it arrived.
    pub header: Header,
    /// Its kind.
    pub kind: Kind,
    /// Its status.
    pub status: Status,
}

/// Carries messages to the other side and back, in their order.
///
/// Any thread may send, and messages arrive whole. One thread at a time receives: a message, then its data.
pub trait Channel: Send + Sync {
    /// Sends a message, whose lengths are filled in here. Waits for as long as the other side takes it, within limits.
    fn send(&self, header: Header, head: &[u8], data: &[u8]) -> Result<(), ChannelError>;

    /// Waits for a message until a moment, or without limit, and puts its head into `head`. `None` if none came; a moment in
    /// the past asks for one that is there. What was not received of the last message's data is skipped.
    fn receive(
        &self,
        until: Option<Instant>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Received>, ChannelError>;

    /// Receives the next `into.len()` bytes of the data of the message received last.
    fn receive_data(&self, into: &mut [u8]) -> Result<(), ChannelError>;

    /// Memory that both sides see.
    fn memory(&self) -> Option<&SharedMemory> {
        None
    }

    /// Ends it: whoever waits here or on the other side is told.
    fn close(&self);
}
