//! Which pages of a range exist: `PAGEMAP_SCAN` on `/proc/self/pagemap` (Linux 6.7).
//!
//! Used to adopt what is present when memory is armed, and by tests to see what is really there.
//! Kernel side: `include/uapi/linux/fs.h`, `fs/proc/task_mmu.c`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Regions that one call of the kernel returns at most.
const REGIONS: usize = 512;

const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong =
    ((3 << 30) | ((size_of::<ScanArgument>() as u32) << 16) | ((b'f' as u32) << 8) | 16)
        as libc::c_ulong;

const _: () = {
    assert!(size_of::<ScanArgument>() == 96);
    assert!(size_of::<Region>() == 24);
    assert!(PAGEMAP_SCAN == 0xc060_6610);
};

/// Consecutive pages that exist and are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
    /// Mapped by huge page-table entries, 2 MiB each.
    pub huge: bool,
    /// The kernel's shared zero page: no frame of ours; the first write allocates one.
    pub zero: bool,
    /// Not in memory: swapped out, or a marker of userfaultfd (write protection of an absent page, poison).
    pub swapped: bool,
    /// Not write-protected by userfaultfd. Always so where write protection is not registered.
    pub written: bool,
}

/// This process's page map.
///
/// It belongs to the process that opened it, whichever process or thread reads it.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens `/proc/self/pagemap`.
    ///
    /// # Errors
    /// The file's, if `/proc` is not mounted or not readable.
    pub fn open() -> io::Result<Self> {
        let path = "/proc/self/pagemap";
        let file = File::open(path).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{path}: {error}; /proc must be mounted and readable"),
            )
        })?;
        Ok(Self { file })
    }

    /// How many bytes from `start` on have left for `destination`: pages in a row that are absent here and
    /// present there.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn gone(&self, start: usize, destination: usize, len: usize) -> io::Result<usize> {
        let absent = self
            .scan(start, len)?
            .first()
            .map_or(len, |run| run.start - start);
        let mut present = 0;
        for run in self.scan(destination, len)? {
            if run.start != destination + present || run.swapped {
                break;
            }
            present += run.len;
        }
        Ok(absent.min(present))
    }

    /// The pages that exist in `[start, start + len)`, in ascending order, whole: the kernel's walk is
    /// continued until it reaches the end.
    ///
    /// Pages that are created or moved away meanwhile may be in the answer or not.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for an unaligned start, `ENOTTY` for a kernel before 6.7.
    pub fn scan(&self, start: usize, len: usize) -> io::Result<Vec<Run>> {
        let end = start as u64 + len as u64;
        let mut from = start as u64;
        let mut runs: Vec<Run> = Vec::new();
        let mut regions = vec![Region::default(); REGIONS];
        while from < end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                start: from,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                return_mask: PAGE_IS_PRESENT
                    | PAGE_IS_SWAPPED
                    | PAGE_IS_PFNZERO
                    | PAGE_IS_HUGE
                    | PAGE_IS_WRITTEN,
                ..ScanArgument::default()
            };
            // SAFETY: the kernel reads and writes one `ScanArgument`, ours, and writes at most `vec_len`
            // regions to `vec`, which is that long and outlives the call.
            let found =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            let Ok(found) = usize::try_from(found) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            for region in &regions[..found.min(REGIONS)] {
                push(&mut runs, region);
            }
            if argument.walk_end <= from {
                return Err(io::Error::other(format!(
                    "PAGEMAP_SCAN stopped at {:#x}, expected to get beyond {from:#x}",
                    argument.walk_end
                )));
            }
            from = argument.walk_end;
        }
        Ok(runs)
    }
}

/// Appends a region, as part of the last run if it continues it.
fn push(runs: &mut Vec<Run>, region: &Region) {
    let has = |category| region.categories & category != 0;
    let run = Run {
        start: region.start as usize,
        len: (region.end - region.start) as usize,
        huge: has(PAGE_IS_HUGE),
        zero: has(PAGE_IS_PFNZERO),
        swapped: has(PAGE_IS_SWAPPED),
        written: has(PAGE_IS_WRITTEN),
    };
    if let Some(last) = runs.last_mut() {
        let continued = Run {
            start: last.start + last.len,
            len: run.len,
            ..*last
        };
        if continued == run {
            last.len += run.len;
            return;
        }
    }
    runs.push(run);
}
