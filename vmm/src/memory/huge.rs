//! Huge pages beneath the guest: whether the host has them, and how a full block becomes one.

use std::fs;

use gmem_core::mmu::Promoted;
use gmem_core::page::PageNo;

use super::ram::GuestRam;

/// Where the administrator says who gets huge pages.
const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Whether the kernel has huge pages, and its administrator lets programs ask for them.
pub(super) fn is_offered() -> bool {
    fs::read_to_string(ENABLED).is_ok_and(|text| allows(&text))
}

fn allows(enabled: &str) -> bool {
    !enabled.contains("[never]")
}

/// Makes one huge page of the block that begins with `page`, by `MADV_COLLAPSE` (Linux 6.1).
pub(super) fn promote(ram: &GuestRam, page: PageNo) -> Promoted {
    let Err(error) = ram.promote_block(page.address()) else {
        return Promoted::Done;
    };
    match error.raw_os_error() {
        // No frame, a hole, a page that is pinned or on its way: another time, another block.
        Some(libc::ENOMEM | libc::EBUSY | libc::EAGAIN) => Promoted::NotNow,
        _ => Promoted::NotOffered,
    }
}

#[cfg(test)]
mod tests;
