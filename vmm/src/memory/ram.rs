//! Guest RAM: one range of host addresses in which host address = base + guest-physical address.

use std::io;

use super::reserve::{Backing, Reservation, ReserveError};
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_wire::layout;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Why guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// Not a whole number of pages, or nothing.
    #[error("guest memory of {0} bytes is not a multiple of 4096; give it in whole pages")]
    Size(u64),
    /// More than the identity map of the low memory can reach.
    #[error(
        "guest memory of {size} bytes is more than the {limit} bytes that this version maps; give less"
    )]
    TooLarge {
        /// Asked for, bytes.
        size: u64,
        /// Most that works, bytes.
        limit: u64,
    },
    /// The kernel gave no address range.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The address range could not be cut into RAM and the hole for devices.
    #[error("guest memory of {size} bytes cannot be laid out: {source}")]
    Layout {
        /// Asked for, bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Guest-physical addresses that are not RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at guest-physical address {gpa:#x} are not all in guest memory")]
pub struct NotRam {
    /// First address of the access.
    pub gpa: u64,
    /// Its length, bytes.
    pub len: usize,
}

/// Guest-physical addresses backed by RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRegion {
    /// First guest-physical address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl RamRegion {
    /// One past the last address.
    pub const fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// Guest RAM: private anonymous memory of this process, not inherited by children.
///
/// The reservation covers guest-physical addresses from 0 to the end of RAM. The hole for devices
/// ([`layout::MMIO_START`] to [`layout::MMIO_END`]) is part of the reservation but inaccessible. Pages
/// exist once they are touched.
#[derive(Debug)]
pub struct GuestRam {
    regions: Vec<RamRegion>,
    // Before the range that it is a view of.
    view: GuestMemoryMmap,
    space: Reservation,
}

impl GuestRam {
    /// The most memory a guest can have, bytes: what the page directories in its low memory map, less the
    /// hole for devices.
    pub const LIMIT: u64 =
        (layout::PAGE_DIRECTORIES << 30) - (layout::MMIO_END - layout::MMIO_START);

    /// Reserves `size` bytes of guest RAM, a multiple of 4 KiB.
    pub fn new(size: u64) -> Result<Self, RamError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE as u64) {
            return Err(RamError::Size(size));
        }
        if size > Self::LIMIT {
            return Err(RamError::TooLarge {
                size,
                limit: Self::LIMIT,
            });
        }
        let regions = regions_of(size);
        let end = regions.last().map_or(0, RamRegion::end) as usize;
        let failed = |source| RamError::Layout { size, source };
        let space = Reservation::new(end, Backing::AsConfigured)?;
        if let [low, high] = &regions[..] {
            let hole = (high.start - low.end()) as usize;
            space.make_hole(low.end() as usize, hole).map_err(failed)?;
        }
        let mut mapped = Vec::new();
        for region in &regions {
            // SAFETY: the range was mapped just above and stays mapped until the value is dropped, which
            // drops this view of it first; the view is not handed out of the crate.
            let mapping = unsafe {
                MmapRegion::build_raw(
                    space.as_ptr().add(region.start as usize),
                    region.size as usize,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                )
            }
            .map_err(|error| failed(io::Error::other(error)))?;
            mapped.push(
                GuestRegionMmap::new(mapping, GuestAddress(region.start))
                    .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?,
            );
        }
        let view = GuestMemoryMmap::from_regions(mapped)
            .map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self {
            regions,
            view,
            space,
        })
    }

    /// RAM, in order of addresses: one region, or two around the hole for devices.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// Bytes of RAM.
    pub fn size(&self) -> u64 {
        self.regions.iter().map(|region| region.size).sum()
    }

    /// One past the last guest-physical address of RAM.
    pub fn end(&self) -> u64 {
        self.regions.last().map_or(0, RamRegion::end)
    }

    /// Host address of guest-physical address 0, a multiple of 2 MiB.
    pub fn base(&self) -> usize {
        self.space.start()
    }

    /// Whether all of `len` bytes at `gpa` are RAM (and in one region).
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        self.regions
            .iter()
            .any(|region| gpa >= region.start && gpa < region.end() && len <= region.end() - gpa)
    }

    /// Host address of guest-physical address `gpa`; `None` if that is not RAM.
    pub fn host_address(&self, gpa: u64) -> Option<usize> {
        self.contains(gpa, 1).then(|| self.base() + gpa as usize)
    }

    /// Guest-physical address of host address `address`; `None` if that is not guest RAM.
    pub fn guest_address(&self, address: usize) -> Option<u64> {
        let gpa = address.checked_sub(self.base())? as u64;
        self.contains(gpa, 1).then_some(gpa)
    }

    /// Copies guest memory at `gpa` into `bytes`. The guest may write it meanwhile.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), NotRam> {
        let len = bytes.len();
        self.view
            .read_slice(bytes, GuestAddress(gpa))
            .map_err(|_| NotRam { gpa, len })
    }

    /// Copies `bytes` into guest memory at `gpa`. The guest may read or write it meanwhile.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), NotRam> {
        self.view
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|_| NotRam {
                gpa,
                len: bytes.len(),
            })
    }

    /// Asks the kernel for pages of this size from here on. What is present stays as it is.
    pub fn set_backing(&self, backing: Backing) -> io::Result<()> {
        self.regions.iter().try_for_each(|region| {
            self.space
                .set_backing(region.start as usize, region.size as usize, backing)
        })
    }

    /// Makes all of the block at guest-physical address `gpa` present, in one frame of 2 MiB if there is one.
    pub fn populate_block(&self, gpa: u64) -> io::Result<()> {
        self.space.populate(gpa as usize, BLOCK_SIZE, true)?;
        // Without a free huge frame the block is 512 small pages: slower to move, no less right.
        let _ = self.space.collapse(gpa as usize);
        Ok(())
    }

    /// Makes pages present that are swapped out.
    pub fn populate_swapped(&self, gpa: u64, len: usize) -> io::Result<()> {
        self.space.populate(gpa as usize, len, false)
    }

    /// Drops what is in `len` bytes at `gpa`: it reads as zeros. Only of plain memory; of armed memory the
    /// engine keeps books. No vCPU may run that has not given it up.
    pub fn discard(&self, gpa: u64, len: usize) -> io::Result<()> {
        self.space.discard(gpa as usize, len)
    }

    /// The memory as loaders want it. Does not leave the crate: a clone of it would dangle once this value
    /// is gone.
    pub(crate) fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }
}

/// Cuts `size` bytes of RAM at the hole for devices.
fn regions_of(size: u64) -> Vec<RamRegion> {
    let low = size.min(layout::MMIO_START);
    let mut regions = vec![RamRegion {
        start: 0,
        size: low,
    }];
    if size > low {
        regions.push(RamRegion {
            start: layout::MMIO_END,
            size: size - low,
        });
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn small_memory_is_one_aligned_region() {
        let ram = GuestRam::new(64 << 20).unwrap();
        assert_eq!(ram.base() % BLOCK_SIZE, 0);
        assert_eq!(ram.regions().len(), 1);
        assert_eq!(ram.size(), 64 << 20);
        assert_eq!(ram.host_address(0x1234), Some(ram.base() + 0x1234));
        assert_eq!(ram.guest_address(ram.base() + 0x1234), Some(0x1234));
        assert_eq!(ram.host_address(64 << 20), None);
        ram.write(0x5000, b"hello").unwrap();
        let mut back = [0; 5];
        ram.read(0x5000, &mut back).unwrap();
        assert_eq!(&back, b"hello");
        assert_eq!(
            ram.write((64 << 20) - 2, b"hello"),
            Err(NotRam {
                gpa: (64 << 20) - 2,
                len: 5
            })
        );
    }

    #[test]
    fn memory_beyond_the_device_hole_continues_at_4_gib() {
        let ram = GuestRam::new(4 * GIB).unwrap();
        assert_eq!(
            ram.regions(),
            [
                RamRegion {
                    start: 0,
                    size: 3 * GIB
                },
                RamRegion {
                    start: 4 * GIB,
                    size: GIB
                }
            ]
        );
        assert_eq!(ram.host_address(3 * GIB), None);
        assert_eq!(
            ram.host_address(4 * GIB),
            Some(ram.base() + 4 * GIB as usize)
        );
        assert!(!ram.contains(3 * GIB - 8, 16));
        ram.write(5 * GIB - 8, &[1; 8]).unwrap();
        assert!(ram.write(3 * GIB, &[1]).is_err());
    }

    #[test]
    fn odd_and_absurd_sizes_are_refused() {
        assert!(matches!(GuestRam::new(0), Err(RamError::Size(0))));
        assert!(matches!(GuestRam::new(4097), Err(RamError::Size(4097))));
        assert!(matches!(
            GuestRam::new(GuestRam::LIMIT + 4096),
            Err(RamError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_fresh_reservation_costs_no_memory() {
        let ram = GuestRam::new(16 * GIB).unwrap();
        let mut residency = vec![0u8; 512];
        // SAFETY: asks about 2 MiB of our own mapping; the vector has one byte for each of its pages.
        let rc = unsafe {
            libc::mincore(
                ram.base() as *mut libc::c_void,
                512 * PAGE_SIZE,
                residency.as_mut_ptr(),
            )
        };
        assert_eq!(rc, 0);
        assert!(residency.iter().all(|page| page & 1 == 0));
    }
}
