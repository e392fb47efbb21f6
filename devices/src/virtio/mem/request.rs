//! Requests and responses.

use vm_memory::GuestMemoryMmap;

use crate::virtio::{Broken, Span};

/// Type (2 bytes), padding (6), address (8), number of blocks (2), padding (6).
const REQUEST_SIZE: usize = 24;
/// Type (2 bytes), padding (6), state (2).
const RESPONSE_SIZE: usize = 10;

/// What the driver asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Plug(Blocks),
    Unplug(Blocks),
    UnplugAll,
    State(Blocks),
    Unknown,
}

/// The blocks of a request, as the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Guest-physical address.
    pub(super) addr: u64,
    pub(super) count: u16,
}

/// What the device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    Ack,
    /// All plugged, none plugged, or some.
    State(BlockState),
    /// More than is requested.
    Nack,
    Busy,
    Error,
}

/// The state of the blocks in a range; the discriminants are the specification's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockState {
    Plugged = 0,
    Unplugged = 1,
    Mixed = 2,
}

/// Reads a request.
pub(super) fn parse(sent: &Span, memory: &GuestMemoryMmap) -> Result<Request, Broken> {
    let mut bytes = [0; REQUEST_SIZE];
    let found = sent.read(memory, &mut bytes)?;
    if found < REQUEST_SIZE {
        return Err(Broken(format!(
            "a request of {found} bytes instead of {REQUEST_SIZE}"
        )));
    }
    let [kind, addr, count] = bytes.as_chunks().0 else {
        return Ok(Request::Unknown);
    };
    let blocks = Blocks {
        addr: u64::from_le_bytes(*addr),
        // The padding behind these two is the driver's.
        count: u64::from_le_bytes(*count) as u16,
    };
    Ok(match u64::from_le_bytes(*kind) as u16 {
        0 => Request::Plug(blocks),
        1 => Request::Unplug(blocks),
        2 => Request::UnplugAll,
        3 => Request::State(blocks),
        _ => Request::Unknown,
    })
}

/// Writes a response: how many bytes that were.
pub(super) fn answer(
    room: &Span,
    memory: &GuestMemoryMmap,
    response: Response,
) -> Result<u32, Broken> {
    let (kind, state) = match response {
        Response::Ack => (0u16, 0),
        Response::State(state) => (0, state as u16),
        Response::Nack => (1, 0),
        Response::Busy => (2, 0),
        Response::Error => (3, 0),
    };
    let mut bytes = [0; RESPONSE_SIZE];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&state.to_le_bytes());
    match room.write(memory, &bytes)? {
        RESPONSE_SIZE => Ok(RESPONSE_SIZE as u32),
        found => Err(Broken(format!(
            "room for {found} bytes, where a response has {RESPONSE_SIZE}"
        ))),
    }
}
