//! Device threads that wait for room when the microVM ends.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::page::Unit;
use gmem_devices::virtio::DeviceMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::input::file;
use crate::support::*;

#[test]
fn devices_that_wait_for_room_are_let_go_at_the_end_with_all_their_bytes() {
    let _alone = alone();
    // Room for 16 MiB in all.
    let memory = memory(64 * MIB, 8 * MIB, 8 * MIB, Unit::Page);
    let engine = memory.engine().unwrap();
    thread::scope(|scope| {
        let memory = &memory;
        // One in a copy, one in a system call.
        let copying = scope.spawn(move || write(memory, 0, 24 * MIB));
        let reading = scope.spawn(move || {
            let file = file(0);
            let at = GuestAddress(32 * MIB);
            let buffer = memory.view().get_host_address(at).unwrap();
            let mut total = 0;
            for chunk in 0..3 {
                // SAFETY: the buffer lies in guest memory, which outlives the call and is reached by raw pointers
                // only.
                let read = unsafe {
                    let at = buffer.add(chunk * 8 * MIB as usize);
                    libc::pread(file.as_raw_fd(), at.cast(), 8 * MIB as usize, 0)
                };
                assert_eq!(
                    read,
                    8 * MIB as isize,
                    "{:?}",
                    std::io::Error::last_os_error()
                );
                total += read;
            }
            total
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while engine.stalls().waiting < 2 {
            assert!(
                Instant::now() < deadline,
                "nobody waits: {:?}",
                engine.stalls()
            );
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(100));
        assert!(!copying.is_finished() && !reading.is_finished());
        memory.release_waiters();
        copying.join().unwrap();
        assert_eq!(reading.join().unwrap(), 24 * MIB as isize);
    });
    for page in 0..24 * MIB / PAGE {
        assert_eq!(read(&memory, page), word(page));
    }
    for page in 0..24 * MIB / PAGE {
        let expected = page * PAGE % (8 * MIB) + 8;
        assert_eq!(read(&memory, 32 * MIB / PAGE + page), expected);
    }
    assert_eq!(memory.failure(), None);
}
