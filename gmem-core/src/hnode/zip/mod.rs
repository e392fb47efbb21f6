//! Compressed memory: lz4, in chunks that need not be neighbours.
//!
//! A page's compressed bytes are cut into chunks of 256 bytes, linked by their numbers. So there is no
//! fragmentation that would keep a page out while there are bytes enough, and the number of pages that
//! certainly fit (all of them incompressible) is exact. Pages that do not compress are stored as they
//! are. Pages filled with one 64-bit value take no chunk: see [`fill`].
//!
//! A frame's name has the number of the first chunk in bits 0 to 30 and how many chunks there are in bits 31 to 35:
//! none of a filled page, 16 of one that is stored as it is. Compressed bytes come after their length, 2 bytes.

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

/// Where a name says how many chunks there are.
const COUNT: u32 = 31;
/// Bytes of the length before compressed bytes.
const LENGTH: usize = size_of::<u16>();

/// The number of the first chunk, or of the fill, and how many chunks there are.
fn parts(frame: Frame) -> (u32, usize) {
    let first = frame.0 & ((1 << COUNT) - 1);
    (first as u32, (frame.0 >> COUNT) as usize)
}

/// Compressed memory.
pub struct Zip {
    name: String,
    capacity: u64,
    chunks: Chunks,
    fills: Fills,
    pages: AtomicU64,
}

impl Zip {
    /// Room for `bytes` (at most 520 GiB are used) of stored bytes and the metadata that goes with them, in a memfd named `gmem-zip`.
    pub fn new(name: impl Into<String>, bytes: u64) -> io::Result<Self> {
        let count = (bytes / chunks::COST as u64).min((1 << COUNT) - 1) as u32;
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
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LENGTH + lz4_flex::block::get_maximum_output_size(PAGE_SIZE)]);
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
            let length = lz4_flex::block::compress_into(bytes, &mut scratch[LENGTH..]);
            let length = length.unwrap_or(PAGE_SIZE);
            let bytes = if LENGTH + length <= WORTH_IT {
                scratch[..LENGTH].copy_from_slice(&(length as u16).to_ne_bytes());
                &scratch[..LENGTH + length]
            } else {
                bytes
            };
            let first = self.chunks.store(bytes).ok_or(StoreError::Full)?;
            let count = bytes.len().div_ceil(chunks::CHUNK) as u64;
            Ok(self.stored(u64::from(first) | count << COUNT))
        })
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let (first, count) = parts(frame);
        match count {
            0 => {
                let value = self.fills.value(first).to_ne_bytes();
                into.chunks_exact_mut(8)
                    .for_each(|word| word.copy_from_slice(&value));
                Ok(())
            }
            chunks::PER_PAGE => {
                self.chunks.load(first, into);
                Ok(())
            }
            _ => SCRATCH.with_borrow_mut(|scratch| {
                let stored = &mut scratch[..count * chunks::CHUNK];
                self.chunks.load(first, stored);
                let damaged = |detail| LoadError::Damaged {
                    frame: frame.0,
                    detail,
                };
                let (length, rest) = stored.split_at(LENGTH);
                let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
                let compressed = rest
                    .get(..length)
                    .ok_or_else(|| damaged(format!("{length} bytes in {count} chunks of 256")))?;
                match lz4_flex::block::decompress_into(compressed, into) {
                    Ok(PAGE_SIZE) => Ok(()),
                    Ok(other) => Err(damaged(format!("{other} bytes instead of {PAGE_SIZE}"))),
                    Err(error) => Err(damaged(error.to_string())),
                }
            }),
        }
    }

    fn takes_room(&self, frame: Frame) -> bool {
        parts(frame).1 != 0
    }

    fn free(&self, frame: Frame, unit: Unit) {
        debug_assert_eq!(unit, Unit::Page, "zip names no frame for a block");
        self.pages.fetch_sub(1, Ordering::Relaxed);
        match parts(frame) {
            (fill, 0) => self.fills.release(fill),
            (first, count) => self.chunks.free_list(first, count),
        }
    }
}

#[cfg(test)]
mod tests;
