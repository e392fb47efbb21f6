//! The pager's messages: how a process that needs pages talks to one that holds them. docs/pager-protocol.md is the
//! specification.
//!
//! A message is a [`Header`], `head_len` bytes of *head* (one struct of [`body`], for some kinds followed by a list of
//! [`Page`]s), and `data_len` bytes of *data*: whole pages, one for each entry of the list, in its order. Over a channel with
//! shared memory the data lies in a slot of that memory instead, and `data_len` is 0.
//!
//! All integers are little-endian, nothing is aligned, and what is reserved is zero.
#![no_std]

pub mod body;
mod header;
pub mod list;

pub use header::{Flags, HEADER_LEN, Header, Kind, MAGIC, Malformed, Status};
pub use list::{MAX_PAGES, Page};
/// What turns these structs into bytes and back.
pub use zerocopy;

/// The version that this code speaks, and the only one.
pub const VERSION: u16 = 1;

/// Bytes of a page.
pub const PAGE_LEN: usize = 4096;

/// The most bytes of a head: what precedes a list, and two lists of [`MAX_PAGES`].
pub const MAX_HEAD: usize = 256 + 2 * MAX_PAGES * size_of::<Page>();

/// The most bytes of data.
pub const MAX_DATA: usize = MAX_PAGES * PAGE_LEN;
