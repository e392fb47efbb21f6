//! The kernel's binary interface of userfaultfd (`include/uapi/linux/userfaultfd.h`, Linux 6.8).
//!
//! Numbers and layouts only. They are written out here because no published crate has `UFFDIO_MOVE`;
//! the constant assertions at the end fail the build if one of them is off.

/// The version of the interface: the only one there has ever been.
pub const UFFD_API: u64 = 0xaa;

/// `read` returned a page fault.
pub const EVENT_PAGEFAULT: u8 = 0x12;

/// The faulting access was a write.
pub const FAULT_WRITE: u64 = 1 << 0;
/// The page is there, write-protected.
pub const FAULT_WP: u64 = 1 << 1;

/// Register: events for pages that are not there.
pub const REGISTER_MISSING: u64 = 1 << 0;
/// Register: events for writes to write-protected pages.
pub const REGISTER_WP: u64 = 1 << 1;

/// Copy: do not wake who waits at the destination.
pub const COPY_DONTWAKE: u64 = 1 << 0;
/// Move: do not wake who waits at the destination.
pub const MOVE_DONTWAKE: u64 = 1 << 0;

/// Write-protect: protect, not release.
pub const WRITEPROTECT_WP: u64 = 1 << 0;
/// Write-protect, releasing: do not wake who waits to write.
pub const WRITEPROTECT_DONTWAKE: u64 = 1 << 1;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Default)]
pub struct Api {
    pub api: u64,
    pub features: u64,
    pub ioctls: u64,
}

/// `struct uffdio_range`: bytes.
#[repr(C)]
#[derive(Default)]
pub struct Range {
    pub start: u64,
    pub len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Default)]
pub struct Register {
    pub range: Range,
    pub mode: u64,
    pub ioctls: u64,
}

/// `struct uffdio_move`; the kernel writes bytes done, or a negative error number, into `moved`.
#[repr(C)]
#[derive(Default)]
pub struct Move {
    pub dst: u64,
    pub src: u64,
    pub len: u64,
    pub mode: u64,
    pub moved: i64,
}

/// `struct uffdio_copy`; the kernel writes bytes done, or a negative error number, into `copied`.
#[repr(C)]
#[derive(Default)]
pub struct Copy {
    pub dst: u64,
    pub src: u64,
    pub len: u64,
    pub mode: u64,
    pub copied: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
#[derive(Default)]
pub struct WriteProtect {
    pub range: Range,
    pub mode: u64,
}

/// `struct uffdio_poison`; the kernel writes bytes done, or a negative error number, into `updated`.
#[repr(C)]
#[derive(Default)]
pub struct Poison {
    pub range: Range,
    pub mode: u64,
    pub updated: i64,
}

/// `struct uffd_msg`, with the page fault's arm of its union spelled out.
///
/// The kernel's is packed, but every field lies at its natural alignment.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Message {
    pub event: u8,
    pub reserved: [u8; 7],
    pub flags: u64,
    pub address: u64,
    pub thread: u32,
    pub tail: u32,
}

const READ: u32 = 2;
const WRITE: u32 = 1;

/// The `_IOC` macro for userfaultfd's letter.
const fn number(direction: u32, nr: u32, size: usize) -> libc::c_ulong {
    ((direction << 30) | ((size as u32) << 16) | (0xaa << 8) | nr) as libc::c_ulong
}

/// On `/dev/userfaultfd`: a new descriptor. Its argument is the flags.
pub const USERFAULTFD_IOC_NEW: libc::c_ulong = number(0, 0x00, 0);
/// Handshake; argument [`Api`].
pub const UFFDIO_API: libc::c_ulong = number(READ | WRITE, 0x3f, size_of::<Api>());
/// Argument [`Register`].
pub const UFFDIO_REGISTER: libc::c_ulong = number(READ | WRITE, 0x00, size_of::<Register>());
/// Argument [`Range`].
pub const UFFDIO_UNREGISTER: libc::c_ulong = number(READ, 0x01, size_of::<Range>());
/// Argument [`Range`].
pub const UFFDIO_WAKE: libc::c_ulong = number(READ, 0x02, size_of::<Range>());
/// Argument [`struct@Copy`].
pub const UFFDIO_COPY: libc::c_ulong = number(READ | WRITE, 0x03, size_of::<Copy>());
/// Argument [`Move`].
pub const UFFDIO_MOVE: libc::c_ulong = number(READ | WRITE, 0x05, size_of::<Move>());
/// Argument [`WriteProtect`].
pub const UFFDIO_WRITEPROTECT: libc::c_ulong =
    number(READ | WRITE, 0x06, size_of::<WriteProtect>());
/// Argument [`Poison`].
pub const UFFDIO_POISON: libc::c_ulong = number(READ | WRITE, 0x08, size_of::<Poison>());

const _: () = {
    assert!(USERFAULTFD_IOC_NEW == 0x0000_aa00);
    assert!(UFFDIO_API == 0xc018_aa3f);
    assert!(UFFDIO_REGISTER == 0xc020_aa00);
    assert!(UFFDIO_UNREGISTER == 0x8010_aa01);
    assert!(UFFDIO_WAKE == 0x8010_aa02);
    assert!(UFFDIO_COPY == 0xc028_aa03);
    assert!(UFFDIO_MOVE == 0xc028_aa05);
    assert!(UFFDIO_WRITEPROTECT == 0xc018_aa06);
    assert!(UFFDIO_POISON == 0xc020_aa08);
    assert!(size_of::<Message>() == 32);
    assert!(std::mem::offset_of!(Message, flags) == 8);
    assert!(std::mem::offset_of!(Message, address) == 16);
    assert!(std::mem::offset_of!(Message, thread) == 24);
    assert!(std::mem::offset_of!(Copy, copied) == 32);
    assert!(std::mem::offset_of!(Move, moved) == 32);
    assert!(std::mem::offset_of!(Poison, updated) == 24);
};
