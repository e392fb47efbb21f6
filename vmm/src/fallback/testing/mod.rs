//! Unit tests, without KVM: guest memory and a vCPU's state for them.

mod cpu;
mod faults;
mod fpu;
mod malformed;
mod paging;
mod syscall;
mod system;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::fallback::fpu::Fpu;
use crate::fallback::machine::{Exception, Machine, Processor, Stop, control};
use crate::fallback::physical::{Access, GuestPhysical};
use crate::fallback::walk::entry;

/// Guest-physical memory from address 0.
pub(super) struct Ram {
    base: NonNull<u8>,
    layout: Layout,
}

impl Ram {
    /// `size` bytes of zeros, a multiple of 4096.
    pub(super) fn new(size: usize) -> Self {
        let layout = Layout::from_size_align(size, 4096).unwrap();
        // SAFETY: the size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        Self { base, layout }
    }

    /// Reads `N` bytes.
    pub(super) fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let at = self.host_address(gpa, N, Access::Read).unwrap();
        // SAFETY: `host_address` checked the range.
        unsafe { at.cast::<[u8; N]>().read_unaligned() }
    }

    /// Writes bytes.
    pub(super) fn put(&self, gpa: u64, bytes: &[u8]) {
        let at = self.host_address(gpa, bytes.len(), Access::Write).unwrap();
        // SAFETY: `host_address` checked the range.
        unsafe {
            at.as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        }
    }

    /// Reads a page-table entry.
    pub(super) fn entry(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.get(gpa))
    }

    /// Writes a page-table entry.
    pub(super) fn set_entry(&self, gpa: u64, value: u64) {
        self.put(gpa, &value.to_le_bytes());
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

// SAFETY: the allocation lives as long as `self`, is aligned to a page, and the range is checked.
unsafe impl GuestPhysical for Ram {
    fn host_address(&self, gpa: u64, len: usize, _: Access) -> Option<NonNull<u8>> {
        let end = gpa.checked_add(len as u64)?;
        if end > self.layout.size() as u64 {
            return None;
        }
        // SAFETY: inside of the allocation, by the check above.
        Some(unsafe { self.base.add(gpa as usize) })
    }
}

/// A vCPU whose extended state is the initial one, with x87, SSE and AVX, and whose other registers are 0.
struct Plain;

impl Processor for Plain {
    fn fpu(&self) -> Result<Fpu, Stop> {
        Ok(Fpu::initial())
    }

    fn xcr0(&self) -> Result<u64, Stop> {
        Ok(7)
    }

    fn set_xcr0(&self, value: u64) -> Result<(), Stop> {
        match value {
            1 | 3 | 7 => Ok(()),
            _ => Err(Exception::protection().into()),
        }
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>, Stop> {
        Ok(vec![0; indices.len()])
    }
}

/// Where [`long_mode`] wants the top-level page table.
pub(super) const PML4: u64 = 0x1000;

/// Page tables that map guest-virtual 0..2 MiB to the same physical addresses, for everyone, in 4 KiB
/// pages. Tables lie at 0x1000 (level 4), 0x2000, 0x3000 and 0x4000 (level 1).
pub(super) fn identity_map(ram: &Ram) {
    let all = entry::PRESENT | entry::WRITABLE | entry::USER;
    for table in [0x1000, 0x2000, 0x3000] {
        ram.set_entry(table, (table + 0x1000) | all);
    }
    for page in 0..512 {
        ram.set_entry(0x4000 + 8 * page, (page * 4096) | all);
    }
}

/// A machine in 64-bit mode at CPL0 as kernels set it, with its tables at [`PML4`].
pub(super) fn long_mode(ram: &Ram) -> Machine<'_> {
    let sregs = kvm_sregs {
        cs: kvm_segment {
            l: 1,
            ..Default::default()
        },
        cr0: 0x8005_0033,
        cr3: PML4,
        cr4: 0x20 | control::CR4_OSFXSR,
        efer: 0x500 | control::EFER_NXE,
        ..Default::default()
    };
    let regs = kvm_regs {
        rflags: 2,
        ..Default::default()
    };
    Machine::new(regs, sregs, ram, &Plain)
}
