//! What driver and device of a virtio-gmem, the guest's door to the memory system, say to each other;
//! docs/virtio-gmem.md specifies it.
//!
//! All integers are little-endian. A *node* is something that holds pages: 0 is the host's RAM, then come the tiers in
//! their order, then the accelerators.

/// The device's type. Of those that virtio leaves free, and no registered one.
pub const ID: u32 = 63;

/// Features.
pub mod feature {
    /// There is a queue of events.
    pub const EVENTS: u64 = 1 << 0;
    /// The guest may lend memory: there is a queue for it.
    pub const PAGER: u64 = 1 << 1;
}

/// Queues.
pub mod queue {
    /// Requests, each answered when it is done.
    pub const REQUESTS: usize = 0;
    /// Buffers for [`super::EVENT_SIZE`] bytes each, in which the device says what has happened.
    pub const EVENTS: usize = 1;
    /// Calls of those who use memory that the guest lends, see [`super::Call`].
    pub const PAGER: usize = 2;
}

/// Descriptors of each queue, at most.
pub const QUEUE_SIZE: u16 = 128;

/// Byte offsets of the fields of the configuration space.
pub mod config {
    /// Number of nodes, 4 bytes.
    pub const NODES: u64 = 0;
    /// Bytes of a page, 4 bytes.
    pub const PAGE: u64 = 4;
    /// The most that one request may be about, bytes, 8 bytes.
    pub const LARGEST: u64 = 8;
    /// Size of all of it.
    pub const SIZE: usize = 16;
}

/// Operations, with the arguments of each in their order.
pub mod op {
    /// `node, address, len, advice`
    pub const ADVISE: u32 = 1;
    /// `node, to, from, len`: copies, wherever both are, and the copy then is in `node`.
    pub const COPY: u32 = 2;
    /// `node`; answers its kind, its capacity, what is used, and the most that was used, bytes.
    pub const NODE: u32 = 3;
    /// `node, address, len`; answers how many bytes of the range are in it.
    pub const WHERE: u32 = 4;
    /// `node, bytes`: the most of an accelerator's memory that this guest may use.
    pub const CAP: u32 = 5;
}

/// What is said of a range of memory.
pub mod advice {
    /// It will be used in the node: it comes there now. Rounded outward to pages.
    pub const PREFETCH: u64 = 0;
    /// Its bytes are not needed any more: it reads as zeros. Rounded inward to pages.
    pub const FREE: u64 = 1;
    /// It stays where it is. Rounded outward to pages.
    pub const PIN: u64 = 2;
    /// It may move again. Rounded outward to pages.
    pub const UNPIN: u64 = 3;
    /// It will be used, by whoever: it leaves later than others. Rounded outward to pages.
    pub const WILL_NEED: u64 = 4;
}

/// Kinds of nodes, as `NODE` answers.
pub mod kind {
    /// Host RAM.
    pub const RAM: u64 = 0;
    /// Accelerator memory, of an accelerator or as a tier.
    pub const HBM: u64 = 1;
    /// Compressed memory.
    pub const ZIP: u64 = 2;
    /// A file.
    pub const FILE: u64 = 3;
    /// Somebody else's memory.
    pub const REMOTE: u64 = 4;
}

/// How a request ended.
pub mod status {
    /// It is done.
    pub const OK: u32 = 0;
    /// The operation, the node or an argument makes no sense. Nothing was done.
    pub const INVALID: u32 = 1;
    /// A range is not all guest memory. Nothing was done.
    pub const FAULT: u32 = 2;
    /// There was no room: part of it may be done.
    pub const NO_MEMORY: u32 = 3;
    /// A page is pinned, by the driver or by what uses it at this moment: part of it may be done.
    pub const PINNED: u32 = 4;
    /// The node cannot do that.
    pub const UNSUPPORTED: u32 = 5;
    /// The host failed.
    pub const DEVICE: u32 = 6;
}

/// A request: what the device reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// See [`op`].
    pub op: u32,
    /// The node that it is about.
    pub node: u32,
    /// The arguments after the node; those that it does not have are zero.
    pub args: [u64; ARGS],
}

/// Arguments after the node.
pub const ARGS: usize = 3;
/// Bytes of a [`Request`]: operation (4), node (4), arguments (8 each).
pub const REQUEST_SIZE: usize = 8 + 8 * ARGS;
/// Values of a [`Response`].
pub const VALUES: usize = 4;
/// Bytes of a [`Response`]: status (4), zero (4), values (8 each).
pub const RESPONSE_SIZE: usize = 8 + 8 * VALUES;
/// Bytes of an event: see [`event`].
pub const EVENT_SIZE: usize = 16;

/// An event: what has happened (4 bytes), the node (4 bytes), bytes of it that are free (8 bytes).
pub mod event {
    /// A node is nearly full.
    pub const PRESSURE: u32 = 1;
    /// It no longer is.
    pub const RELIEF: u32 = 2;
}

impl Request {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; REQUEST_SIZE] {
        let mut bytes = [0; REQUEST_SIZE];
        bytes[..4].copy_from_slice(&self.op.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.node.to_le_bytes());
        for (to, arg) in bytes[8..].chunks_exact_mut(8).zip(self.args) {
            to.copy_from_slice(&arg.to_le_bytes());
        }
        bytes
    }

    /// What lies in memory.
    pub fn from_bytes(bytes: &[u8; REQUEST_SIZE]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let head = u64::from_le_bytes(words[0]);
        let mut args = [0; ARGS];
        for (arg, word) in args.iter_mut().zip(&words[1..]) {
            *arg = u64::from_le_bytes(*word);
        }
        Self {
            op: head as u32,
            node: (head >> 32) as u32,
            args,
        }
    }
}

/// How a request ended: what the device writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// See [`status`].
    pub status: u32,
    /// What the operation answers.
    pub values: [u64; VALUES],
}

impl Response {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; RESPONSE_SIZE] {
        let mut bytes = [0; RESPONSE_SIZE];
        bytes[..4].copy_from_slice(&self.status.to_le_bytes());
        for (to, value) in bytes[8..].chunks_exact_mut(8).zip(self.values) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// What lies in memory.
    pub fn from_bytes(bytes: &[u8; RESPONSE_SIZE]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut values = [0; VALUES];
        for (value, word) in values.iter_mut().zip(&words[1..]) {
            *value = u64::from_le_bytes(*word);
        }
        Self {
            status: u64::from_le_bytes(words[0]) as u32,
            values,
        }
    }
}

/// How a message of the pager's protocol begins on its way through the queue [`queue::PAGER`], in both directions.
///
/// Header and head of the message follow; its data, if there are any, begin at [`Call::DATA_AT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// Whose it is: a number that the device gives each connection, and never again. 0: nobody's.
    pub connection: u64,
    /// See [`call`].
    pub kind: u32,
    /// Bytes of the message's header and head.
    pub len: u32,
}

/// Kinds of a [`Call`].
pub mod call {
    /// A request; in the other direction, its reply.
    pub const MESSAGE: u32 = 0;
    /// The connection has ended. There is no reply.
    pub const CLOSED: u32 = 1;
    /// The driver is to stop lending. There is no reply.
    pub const END: u32 = 2;
}

impl Call {
    /// Bytes of it.
    pub const SIZE: usize = 16;
    /// Where a message's data begin, so that whole pages stay whole.
    pub const DATA_AT: usize = 8192;
    /// Bytes of a chain's room for a call, at least: no message is longer.
    pub const ROOM: usize = Self::DATA_AT + 64 * 4096;

    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.connection.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.kind.to_le_bytes());
        bytes[12..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// What lies in memory.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let rest = u64::from_le_bytes(words[1]);
        Self {
            connection: u64::from_le_bytes(words[0]),
            kind: rest as u32,
            len: (rest >> 32) as u32,
        }
    }
}
