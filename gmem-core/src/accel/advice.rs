//! Hints, by the names of GMEM's `hmadvise`.

use super::Attachment;
use crate::engine::{Cause, DeviceError};
use crate::hnode::device::Access;
use crate::page::{PAGE_SIZE, PageNo, PageRange};

/// What is said of a range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The accelerator will use it: it comes into its memory now, as a copy where it is somebody's. Rounded outward to
    /// pages.
    Prefetch,
    /// It will be used: eviction passes it by once. Rounded outward to pages.
    WillNeed,
    /// Nobody needs its bytes any more: it reads as zeros. Rounded inward to pages.
    DontNeed,
    /// It stays where it is, whoever else wants it: eviction passes it by. Rounded outward to pages.
    Pinned,
    /// It may move again. Rounded outward to pages.
    Unpinned,
}

/// What advice did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advised {
    /// Pages that it was about, after rounding.
    pub pages: u64,
}

impl Advice {
    /// The pages that it is about, of the `len` bytes from `address` on: rounded as it says.
    pub fn pages(self, address: u64, len: u64) -> PageRange {
        let page = PAGE_SIZE as u64;
        let end = address.saturating_add(len);
        let (first, end) = match self {
            Self::DontNeed => (address.div_ceil(page), end / page),
            _ => (address / page, end.div_ceil(page)),
        };
        PageRange::new(PageNo(first), end.saturating_sub(first))
    }
}

impl Attachment {
    /// Takes advice about the `len` bytes from guest-physical address `address` on. All of it must be guest RAM; where
    /// it fails, part of it may have been done.
    pub fn advise(&self, address: u64, len: u64, advice: Advice) -> Result<Advised, DeviceError> {
        let range = advice.pages(address, len);
        if let Some(page) = [range.start, PageNo(range.end().0.saturating_sub(1))]
            .into_iter()
            .find(|page| range.pages > 0 && !self.engine.is_ram(*page))
        {
            return Err(DeviceError::NotRam { page });
        }
        match advice {
            Advice::Prefetch => {
                let mut page = range.start;
                while page < range.end() {
                    let (left, cause) = (range.end().0 - page.0, Cause::Advice);
                    let brought = self.engine.device_fault_ahead(
                        self.hnode,
                        page,
                        Access::Read,
                        cause,
                        left,
                    )?;
                    page = page.add(brought);
                }
            }
            Advice::WillNeed => self.engine.set_will_need(range),
            Advice::DontNeed => self.engine.free(range).map(|_| ())?,
            Advice::Pinned | Advice::Unpinned => {
                self.engine.set_pinned(range, advice == Advice::Pinned)?;
            }
        }
        Ok(Advised { pages: range.pages })
    }
}
