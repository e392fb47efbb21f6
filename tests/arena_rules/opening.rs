//! Rule: who may handle the kernel's faults, and what is said to those who may not.
//!
//! Privileges are dropped in a thread by raw system calls, which unlike libc's change that thread only.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;

use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::{Features, Mode, OpenError, Reading, Userfault, Waking};

use crate::kernel_mode::write_to_pipe;
use crate::support::{self, Access, next_event, put, reserve, whole};

const NOBODY: libc::c_long = 65_534;

#[test]
fn the_kernel_has_what_is_required() {
    let features = Userfault::features().unwrap_or_else(|error| panic!("{error}"));
    let missing = Features::REQUIRED.without(features);
    assert_eq!(missing, Features::default(), "missing: {missing}");
}

#[test]
fn features_are_named_in_messages() {
    let some = Features::MOVE
        .and(Features::POISON)
        .and(Features::from_bits(1 << 40));
    assert_eq!(some.to_string(), "POISON, MOVE, 0x10000000000");
}

#[test]
fn a_feature_that_the_kernel_lacks_is_named_with_the_kernels_release() {
    let unknown = Features::from_bits(1 << 62);
    match Userfault::open_with(Reading::Polled, unknown) {
        Err(error @ OpenError::MissingFeatures { missing, .. }) => {
            assert_eq!(missing, unknown);
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
            assert!(error.to_string().contains(release.trim()), "{error}");
            assert!(error.to_string().contains("Linux 6.8"), "{error}");
        }
        other => panic!("found {other:?}"),
    }
}

#[test]
fn a_descriptor_that_is_no_userfaultfd_is_refused() {
    let file = File::open("/dev/null").expect("/dev/null");
    let error = Userfault::adopt(OwnedFd::from(file), Features::default());
    assert!(matches!(error, Err(OpenError::System { .. })), "{error:?}");
}

/// Whether the calling thread may use the device file, and whether anybody may use the system call.
fn doors() -> (bool, bool) {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
        .is_ok();
    let sysctl = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
    (device, sysctl.is_ok_and(|text| text.trim() == "1"))
}

fn assert_opens_as_far_as_permitted() {
    let opened = Userfault::open(Reading::Polled);
    if doors() == (false, false) {
        let Err(error @ OpenError::NotPermitted { .. }) = opened else {
            panic!("found {opened:?}");
        };
        let text = error.to_string();
        for remedy in [
            "/dev/userfaultfd",
            "CAP_SYS_PTRACE",
            "vm.unprivileged_userfaultfd=1",
        ] {
            assert!(text.contains(remedy), "no {remedy} in: {text}");
        }
    } else {
        assert!(opened.is_ok(), "found {opened:?}");
    }
}

#[test]
fn the_device_files_permission_is_enough_without_capabilities() {
    in_a_thread(|| {
        drop_capabilities();
        assert_opens_as_far_as_permitted();
    });
}

#[test]
fn without_permission_the_message_names_every_remedy() {
    in_a_thread(|| {
        drop_capabilities_and_user();
        assert_opens_as_far_as_permitted();
    });
}

#[test]
fn what_was_opened_before_privileges_dropped_serves_the_kernels_faults_after() {
    in_a_thread(|| {
        let uffd = support::open(Reading::Polled, Features::default());
        drop_capabilities_and_user();
        let guest: &'static _ = Box::leak(Box::new(reserve(1, Backing::Small)));
        let arena = reserve(1, Backing::Small);
        uffd.register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
            .expect("register");
        uffd.register(arena.start(), arena.len(), Mode::WriteProtect)
            .expect("register");
        let access = Access::start(|| write_to_pipe(guest.start()));
        assert_eq!(next_event(&uffd).address, guest.start());
        put(arena.start(), 0x0102_0304);
        let moved = uffd.move_pages(guest.start(), arena.start(), PAGE_SIZE, Waking::Now);
        assert_eq!(moved, whole(1));
        let bytes = access.result().expect("write");
        assert_eq!(bytes[..5], [4, 3, 2, 1, 0]);
    });
}

fn in_a_thread(body: impl FnOnce() + Send + 'static) {
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Takes every capability from the calling thread.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header {
        version: 0x2008_0522, // _LINUX_CAPABILITY_VERSION_3
        pid: 0,
    };
    let none = [[0_u32; 3]; 2];
    // SAFETY: both are of the layout that version 3 of the call reads.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const none) };
    assert_eq!(done, 0, "capset: {}", std::io::Error::last_os_error());
}

/// Makes the calling thread somebody else, without capabilities. Without privileges it is that already.
fn drop_capabilities_and_user() {
    // SAFETY: takes its arguments by value.
    if unsafe { libc::geteuid() } == 0 {
        // SAFETY: takes its arguments by value.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(done, 0, "setresuid: {}", std::io::Error::last_os_error());
    }
    drop_capabilities();
}
