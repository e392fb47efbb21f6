//! From guest-virtual to guest-physical addresses: 4 or 5 levels, pages of 4 KiB, 2 MiB and 1 GiB.
//!
//! Intel SDM volume 3, 4.5 to 4.8. Not checked: reserved physical-address bits above the guest's
//! MAXPHYADDR (such an entry is outside RAM, which is reported), and linear-address masking.

use super::machine::{Cause, Exception, Machine, Stop, control, flags};
use super::physical::{Access, Span, load_u64, replace_u64};

const PAGE: u64 = 4096;

/// Bits of a page-table entry.
pub(super) mod entry {
    /// The entry is in use.
    pub const PRESENT: u64 = 1 << 0;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// CPL3 is allowed.
    pub const USER: u64 = 1 << 2;
    /// It was used.
    pub const ACCESSED: u64 = 1 << 5;
    /// Its page was written.
    pub const DIRTY: u64 = 1 << 6;
    /// It maps a large page.
    pub const LARGE: u64 = 1 << 7;
    /// Fetches are not allowed.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// Physical address of the next table or of the page.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// First bit of the four of a protection key.
    pub const KEY_SHIFT: u32 = 59;
}

/// Bits of a page fault's error code.
mod code {
    pub const PRESENT: u32 = 1 << 0;
    pub const WRITE: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    pub const RESERVED: u32 = 1 << 3;
    pub const FETCH: u32 = 1 << 4;
}

impl<'a> Machine<'a> {
    /// The `len` bytes, at most 16, at guest-virtual `address`, all checked for `access`.
    ///
    /// Raises `#GP(0)` if they are not canonical and `#PF` if a page does not allow it.
    pub(super) fn span(&self, address: u64, len: usize, access: Access) -> Result<Span<'a>, Stop> {
        let first_len = len.min((PAGE - address % PAGE) as usize);
        let second = address.wrapping_add(first_len as u64);
        for at in [address, address.wrapping_add(len as u64 - 1)] {
            if !self.is_canonical(at) {
                return Err(Exception::protection().into());
            }
        }
        let first_gpa = self.translate(address, access)?;
        let second_gpa = match len - first_len {
            0 => 0,
            _ => self.translate(second, access)?,
        };
        let pieces = [(first_gpa, first_len), (second_gpa, len - first_len)];
        Span::new(self.memory, pieces, access).map_err(|gpa| Cause::NotRam(gpa).into())
    }

    /// Whether `address` is one that the page tables can translate.
    pub(super) fn is_canonical(&self, address: u64) -> bool {
        let unused = 64 - (12 + 9 * self.levels());
        ((address << unused) as i64 >> unused) as u64 == address
    }

    /// The guest-physical address of guest-virtual `address`; sets accessed and dirty bits.
    pub(super) fn translate(&self, address: u64, access: Access) -> Result<u64, Stop> {
        // Another vCPU may change an entry between its check and the setting of its bits: then the whole
        // walk is done again, as a CPU does.
        loop {
            if let Some(gpa) = self.walk(address, access)? {
                return Ok(gpa);
            }
        }
    }

    fn levels(&self) -> u32 {
        match self.sregs.cr4 & control::CR4_LA57 {
            0 => 4,
            _ => 5,
        }
    }

    /// One walk; `None` if an entry changed under it.
    fn walk(&self, address: u64, access: Access) -> Result<Option<u64>, Stop> {
        let mut table = self.sregs.cr3 & entry::ADDRESS;
        let mut allowed = entry::WRITABLE | entry::USER;
        let mut no_execute = 0;
        let mut path = [(0, 0); 5];

        let mut level = self.levels();
        loop {
            level -= 1;
            let shift = 12 + 9 * level;
            let at = table + (address >> shift) % 512 * 8;
            let pte = load_u64(self.memory, at).ok_or(Cause::NotRam(at))?;
            path[level as usize] = (at, pte);
            if pte & entry::PRESENT == 0 {
                return Err(self.fault(address, access, 0).into());
            }
            let large = pte & entry::LARGE != 0 && level > 0;
            if self.is_reserved(pte, level, large) {
                let reserved = code::PRESENT | code::RESERVED;
                return Err(self.fault(address, access, reserved).into());
            }
            allowed &= pte;
            no_execute |= pte & entry::NO_EXECUTE;
            if level == 0 || large {
                self.check(address, access, allowed, no_execute, pte)?;
                let offset = (1 << shift) - 1;
                let gpa = pte & entry::ADDRESS & !offset | address & offset;
                return Ok(self.mark(&path, level, access)?.then_some(gpa));
            }
            table = pte & entry::ADDRESS;
        }
    }

    /// Whether `pte` has a bit set that must be zero.
    fn is_reserved(&self, pte: u64, level: u32, large: bool) -> bool {
        let address = match (large, level) {
            (false, _) => 0,
            // Bit 12 of a large page's entry is its PAT bit.
            (true, 1) => 0x001f_e000,
            (true, 2) => 0x3fff_e000,
            // Nothing maps more than 1 GiB.
            (true, _) => entry::LARGE,
        };
        let no_execute = match self.sregs.efer & control::EFER_NXE {
            0 => entry::NO_EXECUTE,
            _ => 0,
        };
        pte & (address | no_execute) != 0
    }

    /// Checks `access` against what all levels of the walk allow.
    fn check(
        &self,
        address: u64,
        access: Access,
        allowed: u64,
        no_execute: u64,
        leaf: u64,
    ) -> Result<(), Stop> {
        let user = self.cpl() == 3;
        let user_page = allowed & entry::USER != 0;
        let cr4 = self.sregs.cr4;
        let denied = match access {
            _ if user && !user_page => true,
            Access::Execute => {
                no_execute != 0 || !user && user_page && cr4 & control::CR4_SMEP != 0
            }
            _ if !user
                && user_page
                && cr4 & control::CR4_SMAP != 0
                && self.regs.rflags & flags::AC == 0 =>
            {
                true
            }
            Access::Write => {
                allowed & entry::WRITABLE == 0 && (user || self.sregs.cr0 & control::CR0_WP != 0)
            }
            Access::Read => false,
        };
        if denied {
            return Err(self.fault(address, access, code::PRESENT).into());
        }
        let keys = match user_page {
            true => control::CR4_PKE,
            false => control::CR4_PKS,
        };
        let key = leaf >> entry::KEY_SHIFT & 15;
        if cr4 & keys != 0 && key != 0 && access != Access::Execute {
            return Err(Cause::ProtectionKey(address).into());
        }
        Ok(())
    }

    /// Sets the accessed bits of a walk that ended at `leaf`, and the dirty bit there; `false` if an
    /// entry is no longer what it was.
    fn mark(&self, path: &[(u64, u64); 5], leaf: u32, access: Access) -> Result<bool, Stop> {
        for level in (leaf..self.levels()).rev() {
            let (at, pte) = path[level as usize];
            let dirty = match (level == leaf, access) {
                (true, Access::Write) => entry::DIRTY,
                _ => 0,
            };
            let marked = pte | entry::ACCESSED | dirty;
            if marked != pte
                && !replace_u64(self.memory, at, pte, marked).ok_or(Cause::NotRam(at))?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn fault(&self, address: u64, access: Access, why: u32) -> Exception {
        let mut error_code = why;
        if self.cpl() == 3 {
            error_code |= code::USER;
        }
        match access {
            Access::Read => {}
            Access::Write => error_code |= code::WRITE,
            // The CPU says that it was a fetch only where that can make a difference.
            Access::Execute => {
                let no_execute = self.sregs.efer & control::EFER_NXE != 0;
                if no_execute || self.sregs.cr4 & control::CR4_SMEP != 0 {
                    error_code |= code::FETCH;
                }
            }
        }
        Exception::page_fault(address, error_code)
    }
}
