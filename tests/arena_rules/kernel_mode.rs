//! Rule: faults that the kernel takes on guest memory must be handled too.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::{Features, Mode, Userfault, Waking};

use crate::support::{Access, Rig, fill, put, readable, reserve, whole};

/// Has the kernel copy one page from `address` into a pipe; returns the bytes that came out.
pub fn write_to_pipe(address: usize) -> io::Result<Vec<u8>> {
    let (mut reader, writer) = io::pipe()?;
    // SAFETY: the kernel reads a page of a live mapping; if it cannot, it says so.
    let written = unsafe {
        libc::write(
            writer.as_raw_fd(),
            address as *const libc::c_void,
            PAGE_SIZE,
        )
    };
    if written < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(writer);
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn a_system_call_on_a_missing_page_waits_and_gets_the_true_bytes() {
    let rig = Rig::new(1, Backing::Small);
    let page = rig.page(0);
    let access = Access::start(move || write_to_pipe(page));
    let event = rig.event();
    assert_eq!(event.address, page);
    assert!(!event.write);
    fill(rig.slot(0), 1, 3);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    let bytes = access.result().expect("write");
    let scratch = reserve(1, Backing::Small);
    fill(scratch.start(), 1, 3);
    // SAFETY: the first page of `scratch` is filled, and nobody else knows it.
    let expected = unsafe { std::slice::from_raw_parts(scratch.as_ptr(), PAGE_SIZE) };
    assert!(bytes == expected, "bytes differ");
}

#[test]
fn a_system_call_that_writes_to_a_missing_page_waits_and_changes_the_true_bytes() {
    let rig = Rig::new(1, Backing::Small);
    let page = rig.page(0);
    let access = Access::start(move || {
        let zeros = File::open("/dev/zero").expect("/dev/zero");
        // SAFETY: the kernel writes 8 bytes to a page of the rig, which is never freed.
        unsafe { libc::read(zeros.as_raw_fd(), (page + 8) as *mut libc::c_void, 8) }
    });
    let event = rig.event();
    assert_eq!(event.address, page);
    assert!(event.write);
    for word in 0..3 {
        put(rig.slot(0) + word * 8, 1);
    }
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert_eq!(access.result(), 8);
    let words: Vec<_> = (0..3)
        .map(|word| crate::support::get(page + word * 8))
        .collect();
    assert_eq!(words, [1, 0, 1]);
}

/// A userfaultfd that leaves the kernel's own faults alone: what gmem must never use.
pub fn open_user_mode_only() -> Userfault {
    let user_mode_only = 1;
    // SAFETY: takes its flags by value.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_userfaultfd,
            libc::O_CLOEXEC | libc::O_NONBLOCK | user_mode_only,
        )
    };
    let fd = libc::c_int::try_from(fd).expect("a descriptor");
    assert!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Userfault::adopt(fd, Features::default()).expect("handshake")
}

#[test]
fn a_user_mode_only_userfaultfd_fails_system_calls_on_missing_pages() {
    let uffd = open_user_mode_only();
    let guest = reserve(1, Backing::Small);
    uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
        .expect("register");
    let error = write_to_pipe(guest.start()).expect_err("nobody brought the page");
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    assert!(!readable(&uffd, std::time::Duration::ZERO));
    // User-mode accesses are served: that is what makes the mistake easy to miss.
    let address = guest.start();
    let access = crate::support::reading(address);
    assert_eq!(crate::support::next_event(&uffd).address, address);
    let arena = reserve(1, Backing::Small);
    uffd.register(arena.start(), arena.len(), Mode::WriteProtect)
        .expect("register");
    put(arena.start(), 4);
    let moved = uffd.move_pages(address, arena.start(), PAGE_SIZE, Waking::Now);
    assert_eq!(moved, whole(1));
    assert_eq!(access.result(), 4);
}
