//! Traces of real guests, as files.
//!
//! All numbers are little-endian:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `gmemtrc` and a newline |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | how touches were seen: 1, by faults, through a window of pages that are let in, first in, first out |
//! | 12 | 4 | pages of that window, at least 1 |
//! | 16 | 8 | pages of the guest: all numbers of pages are below, at most 2^28 |
//! | 24 | 8 | touches, at most 2^26; all bits set while the recording goes on |
//! | 32 | | of each touch the difference of its page to the one before (at first to 0), n as 2n, -n as 2n - 1, in groups of 7 bits, the lowest first, the eighth bit set where more follow |

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::page::CLUSTER_PAGES;

/// What a file begins with.
const MAGIC: [u8; 8] = *b"gmemtrc\n";
/// The version that is written, and the only one that is read.
const VERSION: u16 = 1;
/// Faults, through a window.
const FAULTS: u16 = 1;
/// In place of the touches of a recording that has not ended.
const UNFINISHED: u64 = u64::MAX;
/// Where the number of touches is.
const TOUCHES_AT: u64 = 24;
/// Bytes of the header.
const HEADER: usize = 32;
/// The most that a guest's addresses come to: 1 TiB.
const MOST_PAGES: u64 = 1 << 28;
/// The most touches of a trace: 256 MiB when it is read.
const MOST_TOUCHES: u64 = 1 << 26;
/// The most bytes of a difference.
const LONGEST: u32 = 5;

/// Writes a recording, touch by touch.
pub struct Writer<W> {
    out: W,
    pages: u64,
    last: u64,
    touches: u64,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins a recording of a guest whose pages are below `pages`, seen through a window of `window` pages.
    ///
    /// # Errors
    /// `InvalidInput` for more pages than the format has, or no window; what `out` says.
    pub fn new(mut out: W, pages: u64, window: u32) -> io::Result<Self> {
        if pages > MOST_PAGES || window == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&FAULTS.to_le_bytes());
        header[12..16].copy_from_slice(&window.to_le_bytes());
        header[16..24].copy_from_slice(&pages.to_le_bytes());
        header[24..].copy_from_slice(&UNFINISHED.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self {
            out,
            pages,
            last: 0,
            touches: 0,
        })
    }

    /// Notes a touch of `page`; false, and nothing noted, where the recording is as long as one can be.
    ///
    /// # Errors
    /// `InvalidInput` for a page that the guest does not have; what the file says.
    pub fn touch(&mut self, page: u64) -> io::Result<bool> {
        if page >= self.pages {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.touches == MOST_TOUCHES {
            return Ok(false);
        }
        let difference = page as i64 - self.last as i64;
        let mut rest = ((difference << 1) ^ (difference >> 63)) as u64;
        let mut bytes = [0; LONGEST as usize];
        let mut len = 0;
        loop {
            let more = rest > 0x7f;
            bytes[len] = (rest & 0x7f) as u8 | u8::from(more) << 7;
            (len, rest) = (len + 1, rest >> 7);
            if !more {
                break;
            }
        }
        self.out.write_all(&bytes[..len])?;
        (self.last, self.touches) = (page, self.touches + 1);
        Ok(true)
    }

    /// Ends the recording; how many touches it has.
    ///
    /// # Errors
    /// What the file says.
    pub fn finish(mut self) -> io::Result<u64> {
        self.out.seek(SeekFrom::Start(TOUCHES_AT))?;
        self.out.write_all(&self.touches.to_le_bytes())?;
        self.out.flush()?;
        Ok(self.touches)
    }
}

/// A recording that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Pages that were let in at once while it was recorded.
    pub window: u32,
    /// Pages of the guest.
    pub guest_pages: u64,
    /// Pages touched, in order; all below `guest_pages`.
    pub touches: Vec<u32>,
}

/// Why a file is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is something else.
    #[error("it is no recording of touches; make one with gmem run --record FILE")]
    Other,
    /// Another version wrote it.
    #[error("it has version {0}, known is {VERSION}; record it again")]
    Version(u16),
    /// Its touches were seen in a way that is not known here.
    #[error("its touches were seen in way {0}, known is {FAULTS}; record it again")]
    Seen(u16),
    /// Its recording did not end.
    #[error("its recording did not end; record it again")]
    Unfinished,
    /// A number of its header is out of bounds.
    #[error("it says {found} for its {what}, expected {least} to {most}")]
    Bounds {
        /// Of what.
        what: &'static str,
        /// The number.
        found: u64,
        /// The least that does.
        least: u64,
        /// The most.
        most: u64,
    },
    /// It is shorter than it says.
    #[error("it ends after {found} of {expected} touches")]
    Truncated {
        /// Touches that it should have.
        expected: u64,
        /// Touches that it has.
        found: u64,
    },
    /// A touch is of no page of the guest.
    #[error("touch {touch} is of no page of the guest, which has {pages}")]
    Page {
        /// The touch, from 0.
        touch: u64,
        /// The guest's pages.
        pages: u64,
    },
    /// It is longer than it says.
    #[error("there is more behind its {touches} touches")]
    Longer {
        /// Touches that it has.
        touches: u64,
    },
}

impl Recording {
    /// Reads a recording to the end of `input`, which should be buffered. What is allocated is bounded by what is there.
    ///
    /// # Errors
    /// See [`RecordingError`].
    pub fn read(mut input: impl Read) -> Result<Self, RecordingError> {
        let mut header = [0; HEADER];
        match input.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(RecordingError::Other);
            }
            read => read?,
        }
        let number = |from: usize, to: usize| {
            let mut bytes = [0; 8];
            bytes[..to - from].copy_from_slice(&header[from..to]);
            u64::from_le_bytes(bytes)
        };
        if header[..8] != MAGIC {
            return Err(RecordingError::Other);
        }
        let (version, seen) = (number(8, 10) as u16, number(10, 12) as u16);
        if version != VERSION {
            return Err(RecordingError::Version(version));
        }
        if seen != FAULTS {
            return Err(RecordingError::Seen(seen));
        }
        let (window, pages, expected) = (number(12, 16), number(16, 24), number(24, 32));
        if expected == UNFINISHED {
            return Err(RecordingError::Unfinished);
        }
        let bounds = |what, found, least, most| match (least..=most).contains(&found) {
            true => Ok(()),
            false => Err(RecordingError::Bounds {
                what,
                found,
                least,
                most,
            }),
        };
        bounds("window", window, 1, u32::MAX.into())?;
        bounds("pages", pages, 0, MOST_PAGES)?;
        bounds("touches", expected, 0, MOST_TOUCHES)?;
        let (mut touches, mut last) = (Vec::new(), 0);
        for touch in 0..expected {
            let out_of_bounds = RecordingError::Page { touch, pages };
            let difference = match difference(&mut input) {
                Ok(Some(difference)) => difference,
                Ok(None) => return Err(out_of_bounds),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    let found = touch;
                    return Err(RecordingError::Truncated { expected, found });
                }
                Err(error) => return Err(error.into()),
            };
            last += difference;
            if !(0..pages as i64).contains(&last) {
                return Err(out_of_bounds);
            }
            touches.push(last as u32);
        }
        if input.read(&mut [0])? > 0 {
            let touches = expected;
            return Err(RecordingError::Longer { touches });
        }
        Ok(Self {
            window: window as u32,
            guest_pages: pages,
            touches,
        })
    }

    /// The touches as a simulation takes them: clusters that are touched lie one after the other, in their order, and
    /// pages lie in them as they did. With them the number that all pages are below, at most 64 for each touch.
    pub fn compacted(&self) -> (Vec<u32>, u32) {
        const PAGES: u32 = CLUSTER_PAGES as u32;
        let clusters = self.touches.iter().map(|page| (page / PAGES, 0));
        let mut places: BTreeMap<u32, u32> = clusters.collect();
        for (place, at) in places.values_mut().zip(0..) {
            *place = at;
        }
        let place = |page: &u32| places[&(page / PAGES)] * PAGES + page % PAGES;
        let touches = self.touches.iter().map(place).collect();
        (touches, places.len() as u32 * PAGES)
    }
}

/// The next difference; `None` if it is longer than any can be.
fn difference(input: &mut impl Read) -> io::Result<Option<i64>> {
    let mut zigzag = 0_u64;
    for group in 0..LONGEST {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        zigzag |= u64::from(byte[0] & 0x7f) << (7 * group);
        if byte[0] & 0x80 == 0 {
            return Ok(Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
