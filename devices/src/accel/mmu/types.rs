//! What every format speaks of: where pages lie, what may be done to them, what went wrong.

use std::fmt;

use gmem_core::page::{PageNo, PageRange};

/// Whose memory an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aperture {
    /// The device's own.
    Local,
    /// The system's, kept coherent with its CPUs.
    System,
    /// That of the device's `n`-th peer.
    Peer(u8),
}

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// In whose memory.
    pub aperture: Aperture,
    /// Bytes from its start.
    pub address: u64,
}

impl Target {
    /// `address` in the device's own memory.
    pub const fn local(address: u64) -> Self {
        let aperture = Aperture::Local;
        Self { aperture, address }
    }

    /// What lies `bytes` further.
    pub(super) const fn add(self, bytes: u64) -> Self {
        Self {
            aperture: self.aperture,
            address: self.address + bytes,
        }
    }
}

/// What may be done to a page. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rights {
    /// Nothing: mapped, and every access faults.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
    /// Everything: atomic operations too.
    Atomic,
}

/// What a unit does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads.
    Read,
    /// Writes, or reads and writes.
    Write,
    /// Reads and writes at once.
    Atomic,
}

impl Access {
    /// Whether it changes the page.
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }

    /// The least rights that it takes.
    pub const fn needs(self) -> Rights {
        match self {
            Self::Read => Rights::Read,
            Self::Write => Rights::Write,
            Self::Atomic => Rights::Atomic,
        }
    }
}

/// What a walk found, and a TLB keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// All pages that the entry maps, of which the one asked for is one.
    pub range: PageRange,
    /// Where the first of them lies; the others follow it.
    pub target: Target,
    /// What may be done.
    pub rights: Rights,
    /// Writing needs no further walk: the entry says dirty, or its format never does.
    pub dirty: bool,
}

impl Translation {
    /// Where `page`, one of [`Self::range`], lies.
    pub fn of(&self, page: PageNo) -> Target {
        self.target.add(page.address() - self.range.start.address())
    }
}

/// What an entry mapped, as its driver finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The pages; as many as one of the format's page sizes has.
    pub range: PageRange,
    /// Where the first of them lies; the others follow it.
    pub target: Target,
    /// What might be done.
    pub rights: Rights,
    /// A unit walked to it since it was mapped or harvested. Always, if the format does not say.
    pub accessed: bool,
    /// A unit may have written to it since then. Always, if the format does not say: its rights may once have been more.
    pub dirty: bool,
}

/// A unit cannot access a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{access:?} of {page}: {cause}")]
pub struct Fault {
    /// The page.
    pub page: PageNo,
    /// What was to be done.
    pub access: Access,
    /// Why not.
    pub cause: Cause,
}

/// Why a walk ended without a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No entry maps the page.
    NotMapped,
    /// It is mapped with no more than these rights.
    Denied(Rights),
    /// The page lies beyond what the format can name.
    Beyond,
    /// The tables make no sense: this entry, at this byte offset of the device's memory.
    Malformed {
        /// Where.
        at: u64,
        /// What is there; 0 if the device has no memory there.
        entry: u64,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMapped => f.write_str("it is not mapped"),
            Self::Denied(rights) => write!(f, "it is mapped with rights {rights:?} only"),
            Self::Beyond => f.write_str("beyond the device's virtual addresses"),
            Self::Malformed { at, entry } => {
                write!(f, "malformed entry {entry:#x} at {at:#x} of its tables")
            }
        }
    }
}
