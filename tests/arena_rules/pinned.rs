//! Rule: pinned pages are busy, and io_uring's fixed buffers, which pin, stay off guest RAM.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::Backing;

use crate::support::{
    Access, Rig, assert_filled, fill, get, kib, make_huge, put, stopped, until, whole,
};

/// An io_uring whose fixed buffer pins memory, as a DMA in flight would.
struct Pin(OwnedFd);

impl Pin {
    fn new() -> Self {
        let mut parameters = [0_u64; 15]; // struct io_uring_params, 120 bytes
        // SAFETY: the kernel reads and writes 120 bytes, ours.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) };
        let error = io::Error::last_os_error();
        assert!(
            fd >= 0,
            "this test pins pages by io_uring, which said: {error}; set sysctl kernel.io_uring_disabled=0"
        );
        // SAFETY: the kernel has just made this descriptor for us.
        Self(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
    }

    /// Pins `len` bytes from `start` on: brings in every page.
    fn pin(&self, start: usize, len: usize) -> io::Result<()> {
        let buffer = libc::iovec {
            iov_base: start as *mut libc::c_void,
            iov_len: len,
        };
        // SAFETY: the kernel reads one iovec of ours; the ring is given no requests to use it by.
        self.register(0, (&raw const buffer).cast(), 1)
    }

    /// Lets go; the kernel may take a moment.
    fn unpin(&self) {
        self.register(1, std::ptr::null(), 0).expect("unpin");
    }

    fn register(&self, what: u32, argument: *const libc::c_void, count: u32) -> io::Result<()> {
        let ring = self.0.as_raw_fd();
        // SAFETY: the callers pass what the operation reads, or nothing.
        match unsafe { libc::syscall(libc::SYS_io_uring_register, ring, what, argument, count) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[test]
fn a_pinned_page_is_busy_and_moves_when_it_is_let_go() {
    let rig = Rig::new(1, Backing::Small);
    fill(rig.slot(0), 8, 1);
    assert_eq!(rig.bring(0, 0, 8), whole(8));
    let pin = Pin::new();
    pin.pin(rig.page(3), PAGE_SIZE).expect("pin");
    // The cluster stops there, and goes on behind it.
    assert_eq!(rig.evict(0, 0, 8), stopped(3, Obstacle::Busy));
    assert_eq!(rig.evict(3, 3, 1), stopped(0, Obstacle::Busy));
    assert_eq!(rig.evict(4, 4, 4), whole(4));
    assert_filled(rig.page(3), 3, 1);
    pin.unpin();
    until("the pinned page moves", || rig.evict(3, 3, 1) == whole(1));
    for n in 0..8 {
        assert_filled(rig.slot(n), n, 1);
    }
}

#[test]
fn one_pinned_page_makes_its_whole_huge_page_busy() {
    let rig = Rig::new(2, Backing::Huge);
    make_huge(&rig.arena, 0);
    assert_eq!(rig.bring(0, 0, 512), whole(512));
    let pin = Pin::new();
    pin.pin(rig.page(5), PAGE_SIZE).expect("pin");
    assert_eq!(kib(&rig.guest, "AnonHugePages"), 2048);
    assert_eq!(rig.evict(0, 512, 512), stopped(0, Obstacle::Busy));
    println!(
        "huge after a refused 2 MiB move: {} kB",
        kib(&rig.guest, "AnonHugePages")
    );
    assert_eq!(rig.evict(100, 512, 1), stopped(0, Obstacle::Busy));
    println!(
        "huge after a refused 4 KiB move: {} kB",
        kib(&rig.guest, "AnonHugePages")
    );
    pin.unpin();
    until(
        "the huge page moves",
        || matches!(rig.evict(0, 512, 512), moved if moved == whole(512)),
    );
    for n in 0..512 {
        assert_filled(rig.slot(512 + n), n, 0);
    }
}

#[test]
fn a_fixed_buffer_over_absent_pages_brings_them_all_in_and_keeps_them() {
    let rig = Rig::new(1, Backing::Small);
    let pages = 4;
    let start = rig.page(0);
    let ring = Access::start(move || {
        let pin = Pin::new();
        pin.pin(start, pages * PAGE_SIZE).map(|()| pin)
    });
    for n in 0..pages {
        let event = rig.event();
        assert_eq!(event.address, rig.page(n));
        put(rig.slot(n), n as u64);
        assert_eq!(rig.bring(n, n, 1), whole(1));
    }
    let pin = ring.result().expect("pin");
    for n in 0..pages {
        assert_eq!(rig.evict(n, n, 1), stopped(0, Obstacle::Busy));
        assert_eq!(get(rig.page(n)), n as u64);
    }
    drop(pin);
}
