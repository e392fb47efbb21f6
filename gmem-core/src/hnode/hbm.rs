//! Emulated accelerator memory: an arena of its own behind a link with latency and bandwidth.

use super::frames::Frames;
use super::link::Link;
use super::{
    Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, StoreError, Usage, unit_of,
};
use crate::page::{PAGE_SIZE, Unit};
use crate::shared::SharedMemory;
use std::io;
use std::time::Instant;

/// Emulated HBM.
pub struct Hbm {
    name: String,
    memory: SharedMemory,
    frames: Frames,
    link: Link,
}

impl Hbm {
    /// `bytes` (rounded down to pages) of emulated HBM behind `link`, in a memfd named `gmem-hbm`.
    pub fn new(name: impl Into<String>, bytes: u64, link: Link) -> io::Result<Self> {
        let pages = bytes / PAGE_SIZE as u64;
        Ok(Self {
            name: name.into(),
            memory: SharedMemory::new(c"gmem-hbm", pages as usize * PAGE_SIZE)?,
            frames: Frames::new(pages),
            link,
        })
    }
}

fn offset(frame: Frame) -> usize {
    frame.0 as usize * PAGE_SIZE
}

impl Hnode for Hbm {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Hbm
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: true,
            persistent: false,
            latency: LatencyClass::Memory,
            owner: Owner::Process,
        }
    }

    fn usage(&self) -> Usage {
        self.frames.usage()
    }

    fn guaranteed_pages(&self) -> u64 {
        self.frames.total()
    }

    fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        let start = Instant::now();
        let frame = self
            .frames
            .take(unit_of(bytes.len())?)
            .ok_or(StoreError::Full)?;
        self.memory.write(offset(frame), bytes);
        self.link.transfer(start, bytes.len());
        Ok(frame)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let start = Instant::now();
        self.memory.read(offset(frame), into);
        self.link.transfer(start, into.len());
        Ok(())
    }

    fn load_shared(
        &self,
        frames: &[Frame],
        into: &SharedMemory,
        at: usize,
    ) -> Result<(), LoadError> {
        let start = Instant::now();
        let mut to = at;
        // What lies together is copied together.
        for run in frames.chunk_by(|one, next| one.0 + 1 == next.0) {
            let len = run.len() * PAGE_SIZE;
            self.memory.copy_to(offset(run[0]), len, into, to);
            to += len;
        }
        self.link.transfer(start, to - at);
        Ok(())
    }

    fn wipe(&self, frame: Frame, unit: Unit) {
        for page in 0..unit.pages() {
            self.memory
                .write(offset(frame) + page * PAGE_SIZE, &[0; PAGE_SIZE]);
        }
    }

    fn free(&self, frame: Frame, unit: Unit) {
        self.frames.give_back(frame, unit);
    }

    fn store_pages(
        &self,
        bytes: &[u8],
        stored: &mut dyn FnMut(usize, Frame),
    ) -> Result<usize, StoreError> {
        let start = Instant::now();
        let mut count = 0;
        for page in bytes.chunks_exact(PAGE_SIZE) {
            let Some(frame) = self.frames.take(Unit::Page) else {
                break;
            };
            self.memory.write(offset(frame), page);
            stored(count, frame);
            count += 1;
        }
        self.link.transfer(start, count * PAGE_SIZE);
        Ok(count)
    }

    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        let start = Instant::now();
        for (frame, page) in frames.iter().zip(into.chunks_exact_mut(PAGE_SIZE)) {
            self.memory.read(offset(*frame), page);
        }
        self.link.transfer(start, into.len());
        Ok(())
    }
}
