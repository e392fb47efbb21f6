//! Rule: guest RAM and arena are not inherited by a fork.

use std::io::{self, PipeWriter};
use std::os::fd::AsRawFd;

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::{Features, Mode, Reading, Waking};

use crate::support::{FORKING, Rig, get, open, put, stopped, vm_flags, whole};

/// A forked child that does nothing until it is dropped.
struct Child {
    pid: libc::pid_t,
    /// The child waits until this is closed.
    gate: Option<PipeWriter>,
}

impl Child {
    fn fork() -> Self {
        let (reader, gate) = io::pipe().expect("a pipe");
        // SAFETY: the child only makes calls that are allowed after a fork of many threads.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            let mut byte = 0_u8;
            // SAFETY: closes the child's own copy of the gate, waits for its end, and leaves at once.
            unsafe {
                libc::close(gate.as_raw_fd());
                libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
                libc::_exit(0);
            }
        }
        Self {
            pid,
            gate: Some(gate),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.gate.take());
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

#[test]
fn moves_go_on_while_a_forked_child_lives() {
    let _alone = FORKING.write().expect("no test failed while forking");
    let rig = Rig::new(1, Backing::Small);
    for n in 0..4 {
        put(rig.slot(n), n as u64);
    }
    assert_eq!(rig.bring(0, 0, 2), whole(2));
    let child = Child::fork();
    assert_eq!(rig.bring(2, 2, 2), whole(2));
    assert_eq!(rig.evict(0, 0, 4), whole(4));
    drop(child);
    for n in 0..4 {
        assert_eq!(get(rig.slot(n)), n as u64);
    }
}

#[test]
fn reservations_are_marked_not_to_be_inherited() {
    let rig = Rig::new(1, Backing::Small);
    for address in [rig.page(0), rig.slot(0)] {
        let flags = vm_flags(address);
        assert!(flags.iter().any(|flag| flag == "dc"), "flags {flags:?}");
    }
}

#[test]
fn memory_that_a_fork_inherits_cannot_be_moved_until_its_next_write() {
    let _alone = FORKING.write().expect("no test failed while forking");
    let uffd = open(Reading::Polled, Features::default());
    let len = 2 * PAGE_SIZE;
    // Ordinary memory, not a reservation: a fork inherits it.
    // SAFETY: a new mapping at an address of the kernel's choice.
    let memory = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(memory, libc::MAP_FAILED);
    let (guest, arena) = (memory as usize, memory as usize + PAGE_SIZE);
    uffd.register(guest, PAGE_SIZE, Mode::MissingAndWriteProtect)
        .expect("register");
    uffd.register(arena, PAGE_SIZE, Mode::WriteProtect)
        .expect("register");
    put(arena, 1);
    let child = Child::fork();
    let bring = || uffd.move_pages(guest, arena, PAGE_SIZE, Waking::Now);
    assert_eq!(bring(), stopped(0, Obstacle::Busy), "the child lives");
    drop(child);
    assert_eq!(bring(), stopped(0, Obstacle::Busy), "the child is gone");
    put(arena, 2);
    assert_eq!(bring(), whole(1), "written");
    assert_eq!(get(guest), 2);
    // SAFETY: the mapping is ours and not used any more.
    unsafe { libc::munmap(memory, len) };
}
