//! Guest RAM: one range of host addresses in which host address = base + guest-physical address.

use std::io;

use super::reserve::{Backing, Reservation, ReserveError};
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_devices::virtio::Incoming;
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
    /// Memory that may be plugged in is not whole blocks above RAM.
    #[error(
        "memory of {size:#x} bytes that may be plugged in at guest-physical address {start:#x} does not do: give \
         multiples of 2M from {least:#x} on, up to {limit:#x}"
    )]
    Pluggable {
        /// First address.
        start: u64,
        /// Bytes.
        size: u64,
        /// The least first address.
        least: u64,
        /// Most that the end may be.
        limit: u64,
    },
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
    pluggable: Option<RamRegion>,
    // Before the range that it is a view of.
    view: GuestMemoryMmap,
    space: Reservation,
    incoming: Incoming,
}

impl GuestRam {
    /// The most memory a guest can have, bytes: what the page directories in its low memory map, less the
    /// hole for devices.
    pub const LIMIT: u64 =
        (layout::PAGE_DIRECTORIES << 30) - (layout::MMIO_END - layout::MMIO_START);

    /// Where memory that may be plugged in ends at the latest. Each block of addresses below costs a few bytes.
    pub const PLUGGABLE_END: u64 = 1 << 40;

    /// Reserves `size` bytes of guest RAM, a multiple of 4 KiB.
    pub fn new(size: u64) -> Result<Self, RamError> {
        Self::with_pluggable(size, None)
    }

    /// As [`GuestRam::new`], with a region above RAM, in whole blocks of 2 MiB, that may be plugged in later.
    ///
    /// It is no RAM for who describes the machine to its guest ([`GuestRam::regions`], [`GuestRam::size`]), but
    /// mapped like it from the start, and wants a memory slot of KVM.
    pub fn with_pluggable(size: u64, pluggable: Option<RamRegion>) -> Result<Self, RamError> {
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
        let ram_end = regions.last().map_or(0, RamRegion::end);
        if let Some(region) = &pluggable {
            check_pluggable(region, ram_end)?;
        }
        let mapped_regions = || regions.iter().chain(&pluggable);
        let end = mapped_regions().last().map_or(0, RamRegion::end) as usize;
        let failed = |source| RamError::Layout { size, source };
        let space = Reservation::new(end, Backing::AsConfigured)?;
        for (below, above) in mapped_regions().zip(mapped_regions().skip(1)) {
            let hole = (above.start - below.end()) as usize;
            if hole > 0 {
                let hole = space.make_hole(below.end() as usize, hole);
                hole.map_err(failed)?;
            }
        }
        let mut mapped = Vec::new();
        for region in mapped_regions() {
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
            pluggable,
            view,
            space,
            incoming: Incoming::default(),
        })
    }

    /// Requests by which the kernel may write to this memory on its own.
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// RAM, in order of addresses: one region, or two around the hole for devices. Without what may be plugged
    /// in.
    pub fn regions(&self) -> &[RamRegion] {
        &self.regions
    }

    /// What may be plugged in.
    pub fn pluggable(&self) -> Option<RamRegion> {
        self.pluggable
    }

    /// All that is mapped: RAM, then what may be plugged in.
    pub fn mapped(&self) -> impl Iterator<Item = RamRegion> {
        self.regions.iter().copied().chain(self.pluggable)
    }

    /// Bytes of RAM, without what may be plugged in.
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

    /// Whether all of `len` bytes at `gpa` are mapped (and in one region).
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        self.mapped()
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
        self.mapped().try_for_each(|region| {
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

    /// Makes one huge page of the block at guest-physical address `gpa`, all of it present. vCPUs may use it meanwhile.
    ///
    /// Only this block is open to huge pages, and only for as long as it takes: nothing else collapses it.
    pub fn promote_block(&self, gpa: u64) -> io::Result<()> {
        let set = |backing| self.space.set_backing(gpa as usize, BLOCK_SIZE, backing);
        set(Backing::Huge)?;
        let collapsed = self.space.collapse(gpa as usize);
        set(Backing::Small)?;
        collapsed
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

    /// Lets the kernel forget that pages were used. Ranges that are not RAM do not do.
    pub fn cool(&self, gpa: u64, len: usize) -> io::Result<()> {
        self.space.cool(gpa as usize, len)
    }

    /// The memory as loaders want it. Does not leave the crate: a clone of it would dangle once this value
    /// is gone.
    pub(crate) fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }
}

fn check_pluggable(region: &RamRegion, least: u64) -> Result<(), RamError> {
    let limit = GuestRam::PLUGGABLE_END;
    let RamRegion { start, size } = *region;
    let whole = |bytes: u64| bytes.is_multiple_of(BLOCK_SIZE as u64);
    let inside = start >= least && start <= limit && size <= limit - start;
    if size > 0 && whole(start) && whole(size) && inside {
        return Ok(());
    }
    Err(RamError::Pluggable {
        start,
        size,
        least: least.next_multiple_of(BLOCK_SIZE as u64),
        limit,
    })
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
mod tests;
