//! Guest RAM as the instruction fallback sees it.

use std::ptr::NonNull;

use crate::fallback::{Access, GuestPhysical};
use crate::memory::ram::GuestRam;

// SAFETY: an address of guest RAM is valid for as long as the RAM, base and guest-physical addresses are
// both multiples of a page at page starts, and a range that is RAM is mapped readable and writable. A page that
// is not there is brought in by the fault that the access takes, as for a vCPU.
unsafe impl GuestPhysical for GuestRam {
    fn host_address(&self, gpa: u64, len: usize, _: Access) -> Option<NonNull<u8>> {
        if !self.contains(gpa, len as u64) {
            return None;
        }
        NonNull::new((self.base() + gpa as usize) as *mut u8)
    }
}
