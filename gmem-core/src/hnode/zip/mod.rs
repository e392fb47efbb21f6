//! Compressed memory: lz4, in chunks that need not be neighbours.
//!
//! A page's compressed bytes are cut into chunks of 256 bytes, linked by their numbers. So there is no
//! fragmentation that would keep a page out while there are bytes enough, and the number of pages that
//! certainly fit (all of them incompressible) is exact. Pages that do not compress are stored as they
//! are. Pages filled with one 64-bit value take no chunk: see [`fill`].
//!
//! A frame's name has the number of the first chunk in bits 0 to 31 and the stored length in bits 32 to
//! 47; length 0 is a filled page.

mod chunks;
pub mod fill;

use super::{Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, StoreError, Usage};
use crate::page::{PAGE_SIZE, Unit};
use chunks::Chunks;
use fill::Fills;
use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// A page is stored as it is if compression does not save at least a chunk.
const WORTH_IT: usize = PAGE_SIZE - chunks::CHUNK;

/// Compressed memory.
pub struct Zip {
    name: String,
    capacity: u64,
    chunks: Chunks,
    fills: Fills,
    pages: AtomicU64,
}

impl Zip {
    /// Room for `bytes` of stored bytes and the metadata that goes with them, in a memfd named `gmem-zip`.
    pub fn new(name: impl Into<String>, bytes: u64) -> io::Result<Self> {
        let count = (bytes / chunks::COST as u64).min(u64::from(u32::MAX - 1)) as u32;
        Ok(Self {
            name: name.into(),
            capacity: bytes,
            chunks: Chunks::new(count)?,
            fills: Fills::default(),
            pages: AtomicU64::new(0),
        })
    }

    fn stored(&self, name: u64) -> Frame {
        self.pages.fetch_add(1, Ordering::Relaxed);
        Frame(name)
    }
}

thread_local! {
    /// Where compressed bytes are gathered; a page that does not compress needs a little more than a page.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; lz4_flex::block::get_maximum_output_size(PAGE_SIZE)]);
}

impl Hnode for Zip {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::Zip
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: false,
            persistent: false,
            latency: LatencyClass::Computed,
            owner: Owner::Process,
        }
    }

    fn usage(&self) -> Usage {
        let (used, peak) = self.chunks.used();
        Usage {
            capacity_bytes: self.capacity,
            used_bytes: used * chunks::COST as u64,
            peak_bytes: peak * chunks::COST as u64,
            pages: self.pages.load(Ordering::Relaxed),
        }
    }

    fn guaranteed_pages(&self) -> u64 {
        self.chunks.total() / chunks::PER_PAGE as u64
    }

    fn free_pages(&self) -> u64 {
        self.chunks.free() / chunks::PER_PAGE as u64
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        if bytes.len() != PAGE_SIZE {
            return Err(StoreError::Unit(bytes.len()));
        }
        if let Some(value) = fill::value(bytes)
            && let Some(index) = self.fills.share(value)
        {
            return Ok(self.stored(u64::from(index)));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let length = lz4_flex::block::compress_into(bytes, scratch).unwrap_or(PAGE_SIZE);
            let bytes = if length <= WORTH_IT {
                &scratch[..length]
            } else {
                bytes
            };
            let first = self.chunks.store(bytes).ok_or(StoreError::Full)?;
            Ok(self.stored(u64::from(first) | (bytes.len() as u64) << 32))
        })
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let (first, length) = (frame.0 as u32, (frame.0 >> 32) as usize);
        match length {
            0 => {
                let value = self.fills.value(first).to_ne_bytes();
                into.chunks_exact_mut(8)
                    .for_each(|word| word.copy_from_slice(&value));
                Ok(())
            }
            PAGE_SIZE => {
                self.chunks.load(first, into);
                Ok(())
            }
            _ => SCRATCH.with_borrow_mut(|scratch| {
                self.chunks.load(first, &mut scratch[..length]);
                let damaged = |detail| LoadError::Damaged {
                    frame: frame.0,
                    detail,
                };
                match lz4_flex::block::decompress_into(&scratch[..length], into) {
                    Ok(PAGE_SIZE) => Ok(()),
                    Ok(other) => Err(damaged(format!("{other} bytes instead of {PAGE_SIZE}"))),
                    Err(error) => Err(damaged(error.to_string())),
                }
            }),
        }
    }

    fn takes_room(&self, frame: Frame) -> bool {
        frame.0 >> 32 != 0
    }

    fn free(&self, frame: Frame, unit: Unit) {
        debug_assert_eq!(unit, Unit::Page, "zip names no frame for a block");
        self.pages.fetch_sub(1, Ordering::Relaxed);
        match frame.0 >> 32 {
            0 => self.fills.release(frame.0 as u32),
            length => self.chunks.free_list(frame.0 as u32, length as usize),
        }
    }
}

#[cfg(test)]
mod tests;
