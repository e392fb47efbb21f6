//! Guest-physical memory as this module sees it: a window that the caller opens.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an access does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Data is read.
    Read,
    /// Data is written, or read and written.
    Write,
    /// An instruction is fetched.
    Execute,
}

/// Guest-physical memory.
///
/// # Safety
///
/// An address that [`host_address`](Self::host_address) returns is valid for reads and writes of `len`
/// bytes for as long as `self` is borrowed, and is as aligned as the guest-physical address is, up to a page. The
/// guest may change those bytes at any time.
pub unsafe trait GuestPhysical {
    /// Where this process sees the guest-physical bytes `gpa..gpa + len`; `None` unless all of them are
    /// RAM of the guest.
    ///
    /// `access` says what will be done there: who tracks the monitor's own writes notes
    /// [`Access::Write`]. The range never crosses a 4 KiB boundary.
    fn host_address(&self, gpa: u64, len: usize, access: Access) -> Option<NonNull<u8>>;
}

/// The 64-bit word at `gpa`, a multiple of 8; `None` if that is not RAM.
pub(super) fn load_u64(memory: &dyn GuestPhysical, gpa: u64) -> Option<u64> {
    let at = memory.host_address(gpa, 8, Access::Read)?;
    // SAFETY: the trait's contract: valid for 8 bytes and aligned, since `gpa` is. Other parties change
    // it at any time, hence the atomic.
    Some(unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) }.load(Ordering::Relaxed))
}

/// Replaces the 64-bit word `current` at `gpa`, a multiple of 8, by `new`; whether it still was
/// `current`. `None` if that is not RAM.
pub(super) fn replace_u64(
    memory: &dyn GuestPhysical,
    gpa: u64,
    current: u64,
    new: u64,
) -> Option<bool> {
    let at = memory.host_address(gpa, 8, Access::Write)?;
    // SAFETY: as in `load_u64`.
    let word = unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) };
    Some(
        word.compare_exchange(current, new, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok(),
    )
}

/// At most 16 bytes of guest memory, in one page or in two.
///
/// It exists only when all of its bytes may be accessed, so that a write is never done in part.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    first: NonNull<u8>,
    first_len: usize,
    second: NonNull<u8>,
    second_len: usize,
    memory: std::marker::PhantomData<&'a dyn GuestPhysical>,
}

impl<'a> Span<'a> {
    /// The bytes at the guest-physical addresses `(gpa, len)`, one after the other; the second may be
    /// empty. `Err` is the address that is not RAM.
    pub(super) fn new(
        memory: &'a dyn GuestPhysical,
        pieces: [(u64, usize); 2],
        access: Access,
    ) -> Result<Self, u64> {
        let [(gpa, first_len), (second_gpa, second_len)] = pieces;
        let first = memory.host_address(gpa, first_len, access).ok_or(gpa)?;
        let second = match second_len {
            0 => NonNull::dangling(),
            _ => memory
                .host_address(second_gpa, second_len, access)
                .ok_or(second_gpa)?,
        };
        Ok(Self {
            first,
            first_len,
            second,
            second_len,
            memory: std::marker::PhantomData,
        })
    }

    /// Reads all bytes, little-endian, zero-extended.
    pub(super) fn read(&self) -> u128 {
        let mut bytes = [0; 16];
        let (head, tail) = bytes.split_at_mut(self.first_len);
        // SAFETY: both pieces are valid for their lengths by the trait's contract, and `'a` keeps the
        // memory borrowed.
        unsafe {
            load_bytes(self.first, head);
            load_bytes(self.second, &mut tail[..self.second_len]);
        }
        u128::from_le_bytes(bytes)
    }

    /// Writes the low bytes of `value`, as many as the span has.
    pub(super) fn write(&self, value: u128) {
        let bytes = value.to_le_bytes();
        let (head, tail) = bytes.split_at(self.first_len);
        // SAFETY: as in `read`; the span was made for `Access::Write`.
        unsafe {
            store_bytes(self.first, head);
            store_bytes(self.second, &tail[..self.second_len]);
        }
    }

    /// Atomically replaces the 16 bytes by `new` if they are `current`; returns what they were.
    ///
    /// The span is 16 bytes at a multiple of 16, made for [`Access::Write`].
    pub(super) fn compare_exchange_16(&self, current: u128, new: u128) -> u128 {
        debug_assert!(self.first_len == 16 && self.first.cast::<u128>().is_aligned());
        let (mut low, mut high) = (current as u64, (current >> 64) as u64);
        // SAFETY: 16 valid and aligned bytes; every CPU that KVM supports and that offers a guest
        // cmpxchg16b has it. rbx is LLVM's own, hence the exchange around it.
        unsafe {
            std::arch::asm!(
                "xchg {new_low}, rbx",
                "lock cmpxchg16b [{at}]",
                "mov rbx, {new_low}",
                at = in(reg) self.first.as_ptr(),
                new_low = inout(reg) new as u64 => _,
                in("rcx") (new >> 64) as u64,
                inout("rax") low,
                inout("rdx") high,
                options(nostack),
            );
        }
        u128::from(high) << 64 | u128::from(low)
    }
}

/// Copies guest bytes to `to`; naturally aligned words of up to 8 bytes in one access, as the CPU does.
///
/// # Safety
///
/// `from` is valid for reads of `to.len()` bytes.
pub(super) unsafe fn load_bytes(from: NonNull<u8>, to: &mut [u8]) {
    let step = word(from, to.len());
    for (i, chunk) in to.chunks_exact_mut(step).enumerate() {
        // SAFETY: the chunk lies in the range that the caller vouches for, and `word` chose a size
        // to which it is aligned.
        unsafe {
            let at = from.add(i * step);
            match step {
                8 => chunk.copy_from_slice(&at.cast::<u64>().read_volatile().to_ne_bytes()),
                4 => chunk.copy_from_slice(&at.cast::<u32>().read_volatile().to_ne_bytes()),
                2 => chunk.copy_from_slice(&at.cast::<u16>().read_volatile().to_ne_bytes()),
                _ => chunk[0] = at.read_volatile(),
            }
        }
    }
}

/// Copies `from` to guest bytes, in the same words as [`load_bytes`].
///
/// # Safety
///
/// `to` is valid for writes of `from.len()` bytes.
pub(super) unsafe fn store_bytes(to: NonNull<u8>, from: &[u8]) {
    let step = word(to, from.len());
    for (i, chunk) in from.chunks_exact(step).enumerate() {
        let mut word = [0; 8];
        word[..step].copy_from_slice(chunk);
        let word = u64::from_le_bytes(word);
        // SAFETY: as in `load_bytes`.
        unsafe {
            let at = to.add(i * step);
            match step {
                8 => at.cast::<u64>().write_volatile(word),
                4 => at.cast::<u32>().write_volatile(word as u32),
                2 => at.cast::<u16>().write_volatile(word as u16),
                _ => at.write_volatile(word as u8),
            }
        }
    }
}

/// The largest power of two up to 8 that divides both the address and the length.
fn word(at: NonNull<u8>, len: usize) -> usize {
    1 << (at.addr().get() | len | 8).trailing_zeros()
}
