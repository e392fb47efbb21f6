//! What the heads of messages without a list are. A kind that is not here has a list ([`crate::list`]), or no head at all.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Malformed;

/// Bits of what a side can do.
pub struct Features;

impl Features {
    /// The pages' bytes lie in shared memory, whose descriptor comes with the reply to [`Attach`].
    pub const RING: u32 = 1;
    /// The server checks what it is sent against the first eight bytes of the seal, and answers
    /// [`Damaged`](crate::Status::Damaged).
    pub const CHECK: u32 = 2;
}

/// The first request of a connection.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Attach {
    /// The oldest version that the client speaks.
    pub oldest: U16,
    /// The newest.
    pub newest: U16,
    /// [`Features`] that it wants.
    pub features: U32,
    /// Who it is: the same on each connection for the same pages.
    pub client: [u8; 16],
    /// Proves that it is the same: made by the server when the client first attaches, zeros until then.
    pub ticket: [u8; 16],
    /// How many pages it wants to have room for.
    pub pages: U64,
    /// What it lends itself, and to whom it must not lead back: [`Attached::origin`] of its own server, or zeros.
    pub origin: [u8; 16],
    /// A password, or zeros where the channel says who the client is.
    pub token: [u8; 32],
}

const _: () = assert!(size_of::<Attach>() == 96);

/// The reply.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Attached {
    /// The version that both speak from here on.
    pub version: U16,
    /// How many requests may be under way at once.
    pub credits: U16,
    /// [`Features`] that hold.
    pub features: U32,
    /// See [`Attach::ticket`].
    pub ticket: [u8; 16],
    /// Which run of the server this is: another one has none of the client's pages.
    pub incarnation: [u8; 16],
    /// Who lends what this server lends: its own name, or that of whom it borrows from.
    pub origin: [u8; 16],
    /// Pages that the client has room for.
    pub pages: U64,
    /// Slots of the shared memory, of [`MAX_PAGES`](crate::MAX_PAGES) pages each; 0 without.
    pub slots: U32,
    /// Seconds for which the server keeps the pages of a client that is not connected.
    pub keep_s: U32,
}

const _: () = assert!(size_of::<Attached>() == 72);

/// `Allocate`: the client wants room for so many pages in all; the reply says for how many it has. Likewise `Pressure`, an event: the
/// server would like the client to do with so many.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Amount {
    /// Pages.
    pub pages: U64,
}

/// `Invalidate`: pages `first` to `first + count - 1` are dropped, whatever their versions. As an event: the server has lost them.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Range {
    /// The first page.
    pub first: U64,
    /// How many.
    pub count: U64,
}

/// `Drain`, an event: the server ends in so long. It gives pages back and takes none.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Drain {
    /// Microseconds.
    pub within_us: U64,
}

/// The reply to `Statistics`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Statistics {
    /// Pages that this client has room for.
    pub allocated: U64,
    /// Pages that it has stored.
    pub stored: U64,
    /// Pages that the server can hold in all.
    pub capacity: U64,
    /// Pages that it has promised to its clients.
    pub promised: U64,
    /// Pages read by this client.
    pub read: U64,
    /// Pages written by this client.
    pub written: U64,
}

/// Reads the head of a message without a list.
pub fn read<T: FromBytes>(head: &[u8]) -> Result<T, Malformed> {
    T::read_from_bytes(head).map_err(|_| Malformed::HeadLength(head.len() as u32))
}
