//! What every message begins with.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{MAX_DATA, MAX_HEAD, PAGE_LEN};

/// `GMPG`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"GMPG");

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;

/// What every message begins with.
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
pub struct Header {
    /// [`MAGIC`].
    pub magic: U32,
    /// A [`Kind`].
    pub kind: U16,
    /// [`Flags`].
    pub flags: U16,
    /// Which request this is, or is answered; chosen by who asks; 0 in an event.
    pub correlation: U64,
    /// Bytes of the head, at most [`MAX_HEAD`].
    pub head_len: U32,
    /// Bytes of data behind the head, whole pages, at most [`MAX_DATA`].
    pub data_len: U32,
    /// Of a request: microseconds from its arrival after which nobody wants the answer; 0 is no limit.
    pub deadline_us: U32,
    /// Of a reply: a [`Status`].
    pub status: U16,
    /// Zero.
    pub reserved: U16,
}

const _: () = assert!(size_of::<Header>() == HEADER_LEN);

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs, reason = "each is described where its body is")]
pub enum Kind {
    Attach = 1,
    Allocate = 2,
    Free = 3,
    Read = 4,
    Write = 5,
    Exchange = 6,
    Advise = 7,
    Invalidate = 8,
    Pressure = 9,
    Statistics = 10,
    Drain = 11,
    Detach = 12,
    Ping = 13,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Attach,
        Self::Allocate,
        Self::Free,
        Self::Read,
        Self::Write,
        Self::Exchange,
        Self::Advise,
        Self::Invalidate,
        Self::Pressure,
        Self::Statistics,
        Self::Drain,
        Self::Detach,
        Self::Ping,
    ];

    /// The kind with this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// Bits of [`Header::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags;

impl Flags {
    /// The answer to the request with this correlation.
    pub const REPLY: u16 = 1;
    /// Nobody asked: from who holds pages to who uses them.
    pub const EVENT: u16 = 2;
    /// The pages' bytes lie in the slot of shared memory that the list names.
    pub const RING: u16 = 4;
    /// All that have a meaning.
    pub const KNOWN: u16 = 7;
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// As asked.
    Ok = 0,
    /// The pages are more than were allocated to this client.
    Quota = 1,
    /// There is no room, although it was allocated: what holds the pages failed.
    NoRoom = 2,
    /// What was sent is not what its checksum says.
    Damaged = 3,
    /// The request breaks the protocol. The connection ends.
    BadRequest = 4,
    /// The client is not who it says, or may not attach. The connection ends.
    Denied = 5,
    /// No version in common. The connection ends.
    Version = 6,
    /// The server is about to go: it gives pages back and takes none.
    Draining = 7,
    /// The request's deadline had passed before it was begun.
    Expired = 8,
    /// It would lend what it has borrowed itself. The connection ends.
    Cycle = 9,
    /// Not now: too many clients.
    Busy = 10,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Ok,
        Self::Quota,
        Self::NoRoom,
        Self::Damaged,
        Self::BadRequest,
        Self::Denied,
        Self::Version,
        Self::Draining,
        Self::Expired,
        Self::Cycle,
        Self::Busy,
    ];

    /// The status with this number.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|it| *it as u16 == number)
    }

    /// What it says to a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Quota => "more pages than this client may have",
            Self::NoRoom => "no room",
            Self::Damaged => "bytes arrived damaged",
            Self::BadRequest => "the request breaks the protocol",
            Self::Denied => "not admitted",
            Self::Version => "no version of the protocol in common",
            Self::Draining => "the server is about to end",
            Self::Expired => "the deadline passed before the request was begun",
            Self::Cycle => "the server would lend what it borrows itself",
            Self::Busy => "too many clients",
        }
    }
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It does not begin with [`MAGIC`].
    Magic(u32),
    /// A kind that this version does not have.
    Kind(u16),
    /// A flag that this version does not have, or a reserved field that is not zero.
    Reserved,
    /// A status that this version does not have.
    Status(u16),
    /// A head that is too long, or not as long as its kind's.
    HeadLength(u32),
    /// Data that is too long, no whole pages, or not as many as are listed.
    DataLength(u32),
    /// A list of so many pages.
    Count(u32),
    /// Not a message for this side.
    Direction,
    /// A slot that shared memory does not have.
    Slot(u32),
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic(found) => write!(f, "begins with {found:#x}, expected {MAGIC:#x}"),
            Self::Kind(found) => write!(f, "kind {found}, expected 1 to {}", Kind::ALL.len()),
            Self::Reserved => write!(f, "a reserved field or flag is not zero"),
            Self::Status(found) => {
                write!(f, "status {found}, expected 0 to {}", Status::ALL.len() - 1)
            }
            Self::HeadLength(found) => write!(f, "head of {found} bytes does not fit its kind"),
            Self::DataLength(found) => write!(f, "data of {found} bytes does not fit its list"),
            Self::Count(found) => write!(
                f,
                "a list of {found} pages, expected 1 to {}",
                crate::MAX_PAGES
            ),
            Self::Direction => write!(f, "a message for the other side"),
            Self::Slot(found) => write!(f, "slot {found} is not in the shared memory"),
        }
    }
}

impl Header {
    /// A request.
    pub fn request(kind: Kind, correlation: u64) -> Self {
        Self {
            magic: MAGIC.into(),
            kind: (kind as u16).into(),
            correlation: correlation.into(),
            ..Self::default()
        }
    }

    /// The reply to this request.
    pub fn reply(&self, status: Status) -> Self {
        Self {
            magic: MAGIC.into(),
            kind: self.kind,
            flags: (Flags::REPLY | self.flags.get() & Flags::RING).into(),
            correlation: self.correlation,
            status: (status as u16).into(),
            ..Self::default()
        }
    }

    /// An event.
    pub fn event(kind: Kind) -> Self {
        Self {
            flags: Flags::EVENT.into(),
            ..Self::request(kind, 0)
        }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags.get() & flag != 0
    }

    /// Its kind and status, if all that can be said of a header alone is right.
    pub fn check(&self) -> Result<(Kind, Status), Malformed> {
        let (magic, head, data) = (self.magic.get(), self.head_len.get(), self.data_len.get());
        if magic != MAGIC {
            return Err(Malformed::Magic(magic));
        }
        let kind = Kind::of(self.kind.get()).ok_or(Malformed::Kind(self.kind.get()))?;
        let both = Flags::REPLY | Flags::EVENT;
        if self.flags.get() & !Flags::KNOWN != 0
            || self.flags.get() & both == both
            || self.reserved != 0
        {
            return Err(Malformed::Reserved);
        }
        let status = Status::of(self.status.get()).ok_or(Malformed::Status(self.status.get()))?;
        if head as usize > MAX_HEAD {
            return Err(Malformed::HeadLength(head));
        }
        if data as usize > MAX_DATA || !(data as usize).is_multiple_of(PAGE_LEN) {
            return Err(Malformed::DataLength(data));
        }
        if self.has(Flags::RING) && data != 0 {
            return Err(Malformed::DataLength(data));
        }
        Ok((kind, status))
    }
}
