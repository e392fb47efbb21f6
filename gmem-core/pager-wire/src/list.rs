//! Lists of pages.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Flags, Header, Malformed, PAGE_LEN};

/// The most pages in a list.
pub const MAX_PAGES: usize = 64;

/// A page in a list.
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
pub struct Page {
    /// Its number, from 0, below the number of pages allocated to the client.
    pub number: U64,
    /// Grows with each write of this page; 0 is a page that is not there.
    pub version: U64,
    /// What the client made of the page's bytes, its number and version: a checksum with a secret of the client's, or a
    /// cipher's tag. The server keeps it and gives it back. Where the server is to check it, its first eight bytes
    /// are XXH3-64 of the page's bytes as sent.
    pub seal: [u8; 16],
}

const _: () = assert!(size_of::<Page>() == 32);

/// How a list begins.
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
pub struct Start {
    /// Pages, of [`MAX_PAGES`] at most.
    pub count: U32,
    /// Of [`Kind::Exchange`](crate::Kind::Exchange): so many of them are written, the first ones; else zero.
    pub writes: U32,
    /// With [`Flags::RING`]: the slot with the pages' bytes, [`MAX_PAGES`] pages long; else zero.
    pub slot: U32,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<Start>() == 16);

/// A list that has been checked.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    /// How it begins.
    pub start: Start,
    /// The pages.
    pub pages: &'a [Page],
}

impl<'a> List<'a> {
    /// Reads the head of a message that has a list, with as much data as `data_pages` says of the list.
    pub fn read(
        header: &Header,
        head: &'a [u8],
        data_pages: impl FnOnce(&Start) -> u32,
    ) -> Result<Self, Malformed> {
        let long = Malformed::HeadLength(head.len() as u32);
        let (start, rest) = Start::read_from_prefix(head).map_err(|_| long)?;
        let count = start.count.get();
        if count == 0 || count as usize > MAX_PAGES || start.writes.get() > count {
            return Err(Malformed::Count(count));
        }
        if start.reserved != 0 || !header.has(Flags::RING) && start.slot != 0 {
            return Err(Malformed::Reserved);
        }
        let pages = <[Page]>::ref_from_bytes(rest).map_err(|_| long)?;
        if pages.len() != count as usize {
            return Err(long);
        }
        let data = match header.has(Flags::RING) {
            true => 0,
            false => data_pages(&start) as usize * PAGE_LEN,
        };
        if header.data_len.get() as usize != data {
            return Err(Malformed::DataLength(header.data_len.get()));
        }
        Ok(Self { start, pages })
    }
}
