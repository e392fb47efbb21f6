//! Memory operands of more than 16 bytes: save areas, which lie in two pages or so.

use std::ptr::NonNull;

use iced_x86::Instruction;

use super::machine::{Cause, Exception, Machine, Stop};
use super::physical::{Access, load_bytes, store_bytes};

const PAGE: u64 = 4096;

/// A memory operand whose parts are accessed one by one, and only those parts can fault.
pub(super) struct Area<'m, 'a> {
    machine: &'m Machine<'a>,
    address: u64,
    access: Access,
    /// Guest-virtual pages that were translated, and where they are.
    pages: Vec<(u64, NonNull<u8>)>,
}

impl<'m, 'a> Area<'m, 'a> {
    /// Memory operand 0 of `instruction`; `#GP(0)` unless it is a multiple of `alignment`.
    pub(super) fn new(
        machine: &'m Machine<'a>,
        instruction: &Instruction,
        alignment: u64,
        access: Access,
    ) -> Result<Self, Stop> {
        let address = machine.address(instruction, 0, alignment)?;
        if !address.is_multiple_of(alignment) {
            return Err(Exception::protection().into());
        }
        Ok(Self {
            machine,
            address,
            access,
            pages: Vec::with_capacity(2),
        })
    }

    /// Fills `to` with the bytes from `offset` on.
    pub(super) fn read(&mut self, offset: usize, to: &mut [u8]) -> Result<(), Stop> {
        let mut done = 0;
        for (at, len) in pieces(self.address.wrapping_add(offset as u64), to.len()) {
            let from = self.host(at, len)?;
            // SAFETY: `host` checked these bytes, and the machine keeps the memory borrowed.
            unsafe { load_bytes(from, &mut to[done..done + len]) };
            done += len;
        }
        Ok(())
    }

    /// Writes all `parts`, bytes at an offset each. If any of them faults, none was written.
    pub(super) fn write(&mut self, parts: &[(usize, &[u8])]) -> Result<(), Stop> {
        for &(offset, bytes) in parts {
            for (at, len) in pieces(self.address.wrapping_add(offset as u64), bytes.len()) {
                self.host(at, len)?;
            }
        }
        for &(offset, bytes) in parts {
            let mut done = 0;
            for (at, len) in pieces(self.address.wrapping_add(offset as u64), bytes.len()) {
                let to = self.host(at, len)?;
                // SAFETY: as in `read`; the area was made for `Access::Write`, or the page was not found.
                unsafe { store_bytes(to, &bytes[done..done + len]) };
                done += len;
            }
        }
        Ok(())
    }

    /// Where this process sees the `len` bytes at guest-virtual `at`, which are in one page.
    fn host(&mut self, at: u64, len: usize) -> Result<NonNull<u8>, Stop> {
        let (page, within) = (at & !(PAGE - 1), (at % PAGE) as usize);
        debug_assert!(within + len <= PAGE as usize);
        if let Some(&(_, start)) = self.pages.iter().find(|known| known.0 == page) {
            // SAFETY: the page is valid as a whole.
            return Ok(unsafe { start.add(within) });
        }
        if !self.machine.is_canonical(at) {
            return Err(Exception::protection().into());
        }
        let gpa = self.machine.translate(at, self.access)? & !(PAGE - 1);
        let start = self
            .machine
            .memory
            .host_address(gpa, PAGE as usize, self.access)
            .ok_or(Cause::NotRam(gpa))?;
        self.pages.push((page, start));
        // SAFETY: as above.
        Ok(unsafe { start.add(within) })
    }
}

/// `len` bytes from `address` on, cut at pages: address and length of each piece.
fn pieces(address: u64, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(done as u64);
        let piece = (len - done).min((PAGE - at % PAGE) as usize);
        done += piece;
        (piece > 0).then_some((at, piece))
    })
}
