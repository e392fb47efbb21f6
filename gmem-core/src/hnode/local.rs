//! The memory of an accelerator: frames that it reaches in place, and a link to the host.

use super::frames::Frames;
use super::link::Link;
use super::{Frame, Usage};
use crate::page::{PAGE_SIZE, Unit};
use crate::shared::SharedMemory;
use std::io;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// An accelerator's memory. Shared by the accelerator, which uses the frames that its page tables name, and the address
/// spaces whose pages are in them.
#[derive(Debug)]
pub struct LocalMemory {
    memory: SharedMemory,
    size: u64,
    frames: Frames,
    link: Link,
    speeds: Speeds,
}

/// How fast the accelerator itself reaches memory.
#[derive(Debug)]
pub struct Speeds {
    /// Its own memory: a latency for each chunk of work, and a bandwidth.
    pub local: Link,
    /// Added to the link's latency for each chunk of work that accesses the guest's memory in place, microseconds.
    pub remote_latency_us: f64,
}

impl Default for Speeds {
    /// As fast as it is.
    fn default() -> Self {
        Self {
            local: Link::new(0.0, 0.0),
            remote_latency_us: 0.0,
        }
    }
}

impl LocalMemory {
    /// `bytes` of emulated memory behind `link`, of which the last `reserved` are not for pages but for page tables; both
    /// rounded down to pages, and at least one is for pages. In a memfd named `gmem-accel`.
    pub fn new(bytes: u64, reserved: u64, link: Link) -> io::Result<Self> {
        let page = PAGE_SIZE as u64;
        let (pages, reserved) = (bytes / page, reserved / page);
        let Some(frames) = pages.checked_sub(reserved).filter(|frames| *frames > 0) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{pages} pages of memory less {reserved} for page tables leave none"),
            ));
        };
        Ok(Self {
            memory: SharedMemory::new(c"gmem-accel", pages as usize * PAGE_SIZE)?,
            size: pages * page,
            frames: Frames::new(frames),
            link,
            speeds: Speeds::default(),
        })
    }

    /// The same memory, that the accelerator reaches at these speeds.
    pub fn with_speeds(self, speeds: Speeds) -> Self {
        Self { speeds, ..self }
    }

    /// Its size, bytes, reserved ones included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that pages may use.
    pub fn bytes(&self) -> u64 {
        self.frames.total() * PAGE_SIZE as u64
    }

    /// Byte offsets that pages do not use.
    pub fn reserved(&self) -> Range<u64> {
        self.bytes()..self.size
    }

    /// Pages that are free.
    pub fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    /// Whether [`LocalMemory::take`] would find as many now.
    pub fn has_room(&self, pages: usize) -> bool {
        self.frames.has_run(pages)
    }

    /// How much of it is used.
    pub fn usage(&self) -> Usage {
        self.frames.usage()
    }

    /// Takes `pages` consecutive frames, a power of two of at most 64, aligned to their number.
    pub fn take(&self, pages: usize) -> Option<Frame> {
        self.frames.take_run(pages)
    }

    /// Gives one frame back.
    pub fn give_back(&self, frame: Frame) {
        self.frames.give_back(frame, Unit::Page);
    }

    /// Copies into it over the link.
    ///
    /// # Panics
    ///
    /// As all of these do, if the range is not in the memory.
    pub fn fill(&self, frame: Frame, bytes: &[u8]) {
        let start = Instant::now();
        self.write(address(frame), bytes);
        self.link.transfer(start, bytes.len());
    }

    /// Copies one page from each of `frames` over the link.
    pub fn fetch(&self, frames: &[Frame], into: &mut [u8]) {
        let start = Instant::now();
        for (frame, page) in frames.iter().zip(into.chunks_exact_mut(PAGE_SIZE)) {
            self.read(address(*frame), page);
        }
        self.link.transfer(start, frames.len() * PAGE_SIZE);
    }

    /// Waits for as long as `bytes` of the guest's memory that the accelerator accessed in place, from `start` on, take on
    /// the link. They share it with pages that come and leave.
    pub fn cross(&self, start: Instant, bytes: usize) {
        let latency = Duration::from_secs_f64(self.speeds.remote_latency_us.clamp(0.0, 1e7) / 1e6);
        self.link.transfer_later(start, bytes, latency);
    }

    /// Waits for as long as the accelerator takes to access `bytes` of its own memory, from `start` on.
    pub fn used(&self, start: Instant, bytes: usize) {
        if bytes > 0 {
            self.speeds.local.transfer(start, bytes);
        }
    }

    /// Fills with zeros, as the accelerator itself does: nothing crosses the link.
    pub fn zero(&self, frame: Frame, pages: usize) {
        for page in 0..pages {
            self.write(address(frame) + page * PAGE_SIZE, &[0; PAGE_SIZE]);
        }
    }

    /// The accelerator writes at offset `at`.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        self.memory.write(at, bytes);
    }

    /// The accelerator reads from offset `at`.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        self.memory.read(at, into);
    }

    /// A word at offset `at`, a multiple of 8: page tables, and atomic operations.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        self.memory.word(at)
    }
}

fn address(frame: Frame) -> usize {
    frame.0 as usize * PAGE_SIZE
}
