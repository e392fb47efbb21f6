//! Hnodes: things that hold frames.
//!
//! The arena ([`ram`]) is special: its frames travel to the guest and back. All others, the *tiers*,
//! store and load the bytes of pages behind one trait.

pub mod device;
pub mod file;
mod frames;
pub mod hbm;
pub mod link;
pub mod local;
pub mod ram;
pub mod remote;

pub mod zip;

use crate::page::{BLOCK_SIZE, PAGE_SIZE, Unit};
pub use crate::shared::SharedMemory;
pub use crate::table::Frame;
use std::fmt;

/// What kind of thing an hnode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Host RAM: the arena and what of it lies beneath the guest.
    Host,
    /// Accelerator memory, emulated.
    Hbm,
    /// Compressed memory.
    Zip,
    /// A file.
    File,
    /// Somebody else's memory.
    Remote,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Hbm => "hbm",
            Self::Zip => "zip",
            Self::File => "file",
            Self::Remote => "remote",
        })
    }
}

/// What an hnode can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A CPU could use its frames in place.
    pub cpu_addressable: bool,
    /// Holds a 2 MiB block in one frame.
    pub blocks: bool,
    /// Keeps its bytes when the process ends.
    pub persistent: bool,
    /// Order of magnitude of one page's load.
    pub latency: LatencyClass,
    /// Who owns its frames.
    pub owner: Owner,
}

/// Order of magnitude of the time that loading one page takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LatencyClass {
    /// About a microsecond: a copy.
    Memory,
    /// About ten microseconds: a decompression, a fast network.
    Computed,
    /// A hundred microseconds and more: a device.
    Device,
}

/// Who owns an hnode's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This process.
    Process,
    /// Somebody else, behind a pager.
    Peer,
}

/// How much an hnode holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes it may use.
    pub capacity_bytes: u64,
    /// Bytes it uses now, its own metadata for what it stores included.
    pub used_bytes: u64,
    /// The most it ever used.
    pub peak_bytes: u64,
    /// Pages it holds.
    pub pages: u64,
}

/// Why bytes were not stored. The hnode is as before.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It has no room for this.
    #[error("no room")]
    Full,
    /// It cannot hold a unit of this size.
    #[error("holds no units of {0} bytes")]
    Unit(usize),
    /// The device behind it failed.
    #[error("write failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Why bytes could not be loaded. They may be lost.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The device behind it failed.
    #[error("read failed: {0}")]
    Io(#[from] std::io::Error),
    /// What is stored is not what was stored.
    #[error("frame {frame} is damaged: {detail}")]
    Damaged {
        /// The frame.
        frame: u64,
        /// What is wrong with it.
        detail: String,
    },
}

/// How those are who hold a tier's pages elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// All are there, and each has every page, or has been sent it.
    pub whole: bool,
    /// Times that one came back with nothing of what it held.
    pub lives: u64,
    /// Reads that were tried again, or elsewhere.
    pub retries: u64,
    /// Pages that came back as something else, and were not taken.
    pub refused_pages: u64,
    /// Pages that were given to one again.
    pub mirrored_again_pages: u64,
}

/// A tier: stores the bytes of pages and blocks.
///
/// All methods may be called from any thread. A frame is named by who stored it until it is freed; the
/// engine never loads, stores or frees the same frame from two threads at once.
pub trait Hnode: Send + Sync {
    /// Its name in reports: the kind, with a number from the second of a kind on.
    fn name(&self) -> &str;

    /// Its kind.
    fn kind(&self) -> Kind;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// How much it holds.
    fn usage(&self) -> Usage;

    /// How many pages it certainly holds, whatever their bytes.
    fn guaranteed_pages(&self) -> u64;

    /// How many more pages it certainly takes now.
    fn free_pages(&self) -> u64;

    /// Stores a unit's bytes ([`PAGE_SIZE`], or [`BLOCK_SIZE`] if it can hold blocks) and names the frame
    /// that holds them. The pages of a block are in consecutive frames from that one on, and may be
    /// loaded and freed one by one.
    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError>;

    /// Fills `into` with what is in frame `frame` (and those after it, for a block). The frame keeps it.
    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError>;

    /// Frees a unit's frame. Its bytes are gone.
    fn free(&self, frame: Frame, unit: Unit);

    /// As [`Hnode::load_pages`], into memory that another process sees, from offset `at` on.
    fn load_shared(
        &self,
        frames: &[Frame],
        into: &SharedMemory,
        at: usize,
    ) -> Result<(), LoadError> {
        let len = frames.len() * PAGE_SIZE;
        let mut buffer = vec![0; len + PAGE_SIZE];
        // A file that is read without the kernel's copy wants it to begin at a page.
        let skip = buffer.as_ptr().align_offset(PAGE_SIZE);
        let bytes = &mut buffer[skip..][..len];
        self.load_pages(frames, bytes)?;
        into.write(at, bytes);
        Ok(())
    }

    /// Overwrites a unit's frame, which is about to be freed, where what is freed could be seen otherwise than by
    /// [`Hnode::load`].
    fn wipe(&self, _frame: Frame, _unit: Unit) {}

    /// These frames are about to be loaded: who is far away may send them already.
    fn announce(&self, _frames: &[Frame]) {}

    /// Whether it is about to end, and should be relieved of what it holds.
    fn is_going(&self) -> bool {
        false
    }

    /// What keeps it from storing or loading, in words, if something does.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// From now on nobody is to wait long: the microVM is about to end.
    fn hurry(&self) {}

    /// How those are who hold its pages, if others do.
    fn peers(&self) -> Option<Peers> {
        None
    }

    /// Memory of this process that it takes for its own books, bytes.
    fn metadata_bytes(&self) -> u64 {
        0
    }

    /// Whether freeing `frame` would make room: a page that is filled with one value may take none.
    fn takes_room(&self, _frame: Frame) -> bool {
        true
    }

    /// Stores consecutive pages of 4 KiB, calling `stored(index, frame)` for each in order, until one
    /// does not fit; returns how many were stored. A device pays its latency once.
    fn store_pages(
        &self,
        bytes: &[u8],
        stored: &mut dyn FnMut(usize, Frame),
    ) -> Result<usize, StoreError> {
        for (index, page) in bytes.chunks_exact(PAGE_SIZE).enumerate() {
            match self.store(page) {
                Ok(frame) => stored(index, frame),
                Err(StoreError::Full) => return Ok(index),
                Err(error) => return Err(error),
            }
        }
        Ok(bytes.len() / PAGE_SIZE)
    }

    /// Loads one page from each of `frames` into consecutive pages of `into`. A device pays its latency
    /// once.
    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        for (frame, page) in frames.iter().zip(into.chunks_exact_mut(PAGE_SIZE)) {
            self.load(*frame, page)?;
        }
        Ok(())
    }
}

/// The unit whose size is `bytes`.
fn unit_of(bytes: usize) -> Result<Unit, StoreError> {
    match bytes {
        PAGE_SIZE => Ok(Unit::Page),
        BLOCK_SIZE => Ok(Unit::Block),
        _ => Err(StoreError::Unit(bytes)),
    }
}
