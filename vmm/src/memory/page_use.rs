//! Which guest pages are used, by the kernel's flags of their frames.
//!
//! A vCPU's access leaves no trace that this process could see: it sets a bit in KVM's tables, which nobody may read. But
//! when KVM translates a page anew it marks the page's frame as used, and `/proc/kpageflags` shows that to root. So to
//! watch pages is to let the kernel forget their use (`MADV_COLD`) and KVM its translations: lifting a write
//! protection that is not there (`UFFDIO_WRITEPROTECT`) changes nothing, but the kernel announces it to KVM like any
//! change. [docs/hotness.md](../../../docs/hotness.md) has what else was tried, and what it costs.
//!
//! Kernel side: `uffd_wp_range` in `mm/userfaultfd.c`, `kvm_release_faultin_page` in `arch/x86/kvm/mmu/mmu.c`,
//! `mark_page_accessed` in `mm/swap.c`, `stable_page_flags` in `fs/proc/page.c`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use gmem_core::page::{BLOCK_CLUSTERS, BLOCK_PAGES, BLOCK_SIZE, CLUSTER_PAGES, PAGE_SIZE};
use gmem_core::policy::Hotness;
use gmem_core::policy::hotness::Masks;

use super::ram::GuestRam;
use super::reserve::{Backing, Reservation};
use super::userfault::{Userfault, Waking};
use crate::kvm::affinity;
use crate::kvm::host::Virtualization;

/// `KPF_REFERENCED` and `KPF_ACTIVE` of `include/uapi/linux/kernel-page-flags.h`.
const USED: u64 = 1 << 2 | 1 << 6;
/// In `/proc/PID/pagemap`: the page is there, and its frame's number.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
/// Shadow tables are filled for so many pages at once (`PTE_PREFETCH_NUM`), which marks them all.
const SHADOW_GRAIN: usize = 8;

/// The kernel's flags of a guest's frames.
///
/// Of memory that is registered for write protection, and of which nothing is write-protected: protection would be
/// lost. So not where accelerators have copies of pages.
pub struct PageUse {
    ram: Arc<GuestRam>,
    userfault: Arc<Userfault>,
    pages: File,
    frames: File,
    cpus: Vec<usize>,
    /// Advice about this page, which is not there, is about nothing.
    nothing: Reservation,
}

/// Why the use of pages cannot be seen.
#[derive(Debug, thiserror::Error)]
pub enum PageUseError {
    /// A file of the kernel's.
    #[error(
        "{path} cannot be read: {source}; run as root on a kernel with CONFIG_PROC_PAGE_MONITOR=y"
    )]
    File {
        /// Its path.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Numbers of frames are hidden.
    #[error("/proc/self/pagemap shows no numbers of frames; run with CAP_SYS_ADMIN")]
    Hidden,
    /// No page to give advice about.
    #[error(transparent)]
    Reserve(#[from] super::reserve::ReserveError),
}

impl PageUse {
    /// Opens the kernel's files for a guest whose vCPUs run on `cpus`.
    ///
    /// # Errors
    /// See [`PageUseError`].
    pub fn open(
        ram: &Arc<GuestRam>,
        userfault: &Arc<Userfault>,
        cpus: &[usize],
    ) -> Result<Self, PageUseError> {
        let open = |path| File::open(path).map_err(|source| PageUseError::File { path, source });
        let page_use = Self {
            ram: Arc::clone(ram),
            userfault: Arc::clone(userfault),
            pages: open("/proc/self/pagemap")?,
            frames: open("/proc/kpageflags")?,
            cpus: cpus.to_vec(),
            nothing: Reservation::new(PAGE_SIZE, Backing::Small)?,
        };
        let here = 0_u8;
        let stack = page_use.frame_numbers(&raw const here as usize, 1);
        match stack.first() {
            Some(entry) if entry & FRAME != 0 => Ok(page_use),
            _ => Err(PageUseError::Hidden),
        }
    }

    /// The page map's words of `pages` pages from `address` on; zeros, not present, where it cannot be read.
    fn frame_numbers(&self, address: usize, pages: usize) -> Vec<u64> {
        let mut bytes = vec![0; pages * 8];
        let at = (address / PAGE_SIZE * 8) as u64;
        // What cannot be read stays zero.
        let _ = self.pages.read_exact_at(&mut bytes, at);
        let words = bytes.chunks_exact(8);
        words
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect()
    }

    /// Whether a present page's frame is marked as used.
    fn is_used(&self, entry: u64) -> bool {
        let mut word = [0; 8];
        let at = (entry & FRAME) * 8;
        self.frames.read_exact_at(&mut word, at).is_ok() && u64::from_le_bytes(word) & USED != 0
    }

    /// Marks wait in lists of the CPU that makes them, up to 31 pages each, until somebody there gives advice.
    fn settle(&self) {
        for &cpu in &self.cpus {
            // Not fatal: up to 31 pages are mistaken for unused.
            let _ = affinity::pin(cpu);
            let _ = self.nothing.cool(0, PAGE_SIZE);
        }
    }

    /// The parts of `block` that are RAM: guest-physical addresses and lengths, bytes.
    fn parts(&self, block: u64) -> impl Iterator<Item = (u64, usize)> {
        let (start, end) = (block * BLOCK_SIZE as u64, (block + 1) * BLOCK_SIZE as u64);
        let part = move |from: u64, to: u64| {
            let (from, to) = (from.max(start), to.min(end));
            (from < to).then(|| (from, (to - from) as usize))
        };
        self.ram
            .mapped()
            .filter_map(move |region| part(region.start, region.end()))
    }
}

impl Hotness for PageUse {
    /// Leaves the calling thread on one of the vCPUs' CPUs.
    fn watch(&self, block: u64) -> bool {
        let cooled = self
            .parts(block)
            .all(|(at, len)| self.ram.cool(at, len).is_ok());
        self.settle();
        cooled
            && self.parts(block).all(|(at, len)| {
                let address = self.ram.base() + at as usize;
                self.userfault
                    .unprotect(address, len, Waking::Later)
                    .is_ok()
            })
    }

    /// Leaves the calling thread on one of the vCPUs' CPUs.
    fn accessed(&self, block: u64, asked: &Masks) -> Option<Masks> {
        self.settle();
        let start = self.ram.base() + block as usize * BLOCK_SIZE;
        let entries = self.frame_numbers(start, BLOCK_PAGES);
        let mut accessed = [0; BLOCK_CLUSTERS];
        for (page, &entry) in entries.iter().enumerate() {
            let (cluster, bit) = (page / CLUSTER_PAGES, 1 << (page % CLUSTER_PAGES));
            if asked[cluster] & bit != 0 && entry & PRESENT != 0 && self.is_used(entry) {
                accessed[cluster] |= bit;
            }
        }
        Some(accessed)
    }

    fn grain(&self) -> usize {
        match Virtualization::detect() {
            Virtualization::Software => SHADOW_GRAIN,
            Virtualization::Vmx | Virtualization::Svm => 1,
        }
    }
}
