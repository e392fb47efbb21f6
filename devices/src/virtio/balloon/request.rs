//! Pages and ranges in a request.

use std::ops::Range;

use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::PAGE_SIZE;
use super::statistics::{Statistic, Statistics};
use crate::virtio::{Broken, Buffers, Chain};

/// Page numbers taken from one request, at most. Linux sends 256.
const MOST_PAGES: usize = 1 << 16;
/// Statistics taken from one request, at most: four times as many as there are.
const MOST_STATISTICS: usize = 64;
/// A tag (2 bytes) and a value (8 bytes).
const STATISTIC_SIZE: usize = 10;

/// The page numbers in a request of the inflate or deflate queue.
pub(super) fn pages(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Vec<u32>, Broken> {
    let bytes = read(chain, memory, MOST_PAGES * 4)?;
    Ok(bytes
        .as_chunks()
        .0
        .iter()
        .map(|page| u32::from_le_bytes(*page))
        .collect())
}

/// The statistics in a request of the statistics queue. Unknown ones are skipped.
pub(super) fn statistics(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<Statistics, Broken> {
    let bytes = read(chain, memory, MOST_STATISTICS * STATISTIC_SIZE)?;
    let values =
        bytes
            .as_chunks::<STATISTIC_SIZE>()
            .0
            .iter()
            .filter_map(|[tag0, tag1, value @ ..]| {
                let statistic = Statistic::tagged(u16::from_le_bytes([*tag0, *tag1]))?;
                Some((statistic, u64::from_le_bytes(*value)))
            });
    Ok(Statistics::now(values))
}

/// The number in a request that holds one: a command of free page hinting.
pub(super) fn command(chain: Chain<'_>, memory: &GuestMemoryMmap) -> Result<u32, Broken> {
    match read(chain, memory, 4)?.try_into() {
        Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
        Err(bytes) => Err(Broken(format!(
            "a hinting command of {} bytes instead of 4",
            bytes.len()
        ))),
    }
}

/// The memory that a request of the reporting or hinting queue lends: whole pages of RAM, and how many bytes
/// of it are neither.
pub(super) fn lent(chain: Chain<'_>, memory: &GuestMemoryMmap) -> (Vec<Range<u64>>, u64) {
    let mut ranges = Vec::new();
    let mut refused = 0;
    for buffer in chain.writable() {
        let (start, len) = (buffer.addr().raw_value(), u64::from(buffer.len()));
        let range = start
            .checked_add(len)
            // What is not a whole page has other bytes beside it.
            .and_then(|end| {
                Some(start.checked_next_multiple_of(PAGE_SIZE)?..end / PAGE_SIZE * PAGE_SIZE)
            })
            .filter(|range| range.start < range.end && is_ram(memory, range));
        match range {
            Some(range) => ranges.push(range),
            None => refused += len,
        }
    }
    (ranges, refused)
}

/// The ranges that `pages` make up, in ascending order, and how many of the pages are not RAM.
pub(super) fn ranges(mut pages: Vec<u32>, memory: &GuestMemoryMmap) -> (Vec<Range<u64>>, u64) {
    pages.sort_unstable();
    pages.dedup();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut refused = 0;
    for page in pages {
        let start = u64::from(page) * PAGE_SIZE;
        let range = start..start + PAGE_SIZE;
        if !is_ram(memory, &range) {
            refused += 1;
            continue;
        }
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    (ranges, refused)
}

fn is_ram(memory: &GuestMemoryMmap, range: &Range<u64>) -> bool {
    let len = (range.end - range.start) as usize;
    memory.check_range(GuestAddress(range.start), len, Permissions::ReadWrite)
}

/// All that the driver sends in `chain`, at most `most` bytes.
fn read(chain: Chain<'_>, memory: &GuestMemoryMmap, most: usize) -> Result<Vec<u8>, Broken> {
    let sent = Buffers::of(chain)?.readable;
    let len = sent.len();
    if len > most {
        return Err(Broken(format!(
            "a request of {len} bytes, where {most} are the most"
        )));
    }
    let mut bytes = vec![0; len];
    sent.read(memory, &mut bytes)?;
    Ok(bytes)
}
