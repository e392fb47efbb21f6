//! A network device behind its registers, served by its own thread.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::testing::{BUFFERS, TestMemory};
use crate::virtio::{MmioDevice, NOTIFY_OFFSET};

const NAME: &str = "net-idle-test";
/// Where each queue's table, available ring and used ring are.
const RINGS: [[u64; 3]; 2] = [[0x1000, 0x2000, 0x3000], [0x4000, 0x5000, 0x6000]];
const QUEUE_SIZE: u32 = 16;

/// What a driver does to be ready: version 1, no other feature.
fn drive(device: &MmioDevice) {
    let write = |offset, value: u32| device.write(offset, &value.to_le_bytes());
    write(0x70, 1);
    write(0x70, 3);
    write(0x24, 1);
    write(0x20, 1);
    write(0x70, 11);
    for (queue, rings) in RINGS.iter().enumerate() {
        write(0x30, queue as u32);
        write(0x38, QUEUE_SIZE);
        for (register, gpa) in [0x80, 0x90, 0xa0].into_iter().zip(rings) {
            write(register, *gpa as u32);
            write(register + 4, 0);
        }
        write(0x44, 1);
    }
    write(0x70, 15);
    let mut status = [0; 4];
    device.read(0x70, &mut status);
    assert_eq!(status, [15, 0, 0, 0]);
}

/// CPU time of the thread with the device's name, in ticks of 10 ms.
fn ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stat = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
        .find(|stat| stat.contains(&format!("({NAME})")))
        .unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    // User and system time are fields 14 and 15 of which two are before the bracket.
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_device_that_waits_for_room_sleeps_and_wakes_when_there_is_some() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let memory = TestMemory::new();
    let line = EventFd::new(EFD_NONBLOCK).unwrap();
    let net = Net::new(Tap::socket(ours), NetOptions::default()).unwrap();
    let device = MmioDevice::new(
        NAME.into(),
        Box::new(net),
        memory.clone(),
        line.try_clone().unwrap(),
    )
    .unwrap();
    drive(&device);
    for _ in 0..3 {
        theirs.send(&[9; 60]).unwrap();
    }
    let waiting = || device.metrics().unwrap().0["receive_no_buffer"] == 1;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !waiting() {
        assert!(Instant::now() < deadline, "the packet was not seen");
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert!(ticks() - before <= 5, "it is busy while it waits");

    // A buffer of 2000 bytes for the device to write, the first and only one.
    let [table, available, used] = RINGS[0];
    memory.put(table, &BUFFERS.to_le_bytes());
    memory.put(table + 8, &[0xd0, 7, 0, 0, 2, 0, 0, 0]);
    memory.put(available + 2, &1u16.to_le_bytes());
    device.write(NOTIFY_OFFSET, &0u32.to_le_bytes());
    while memory.bytes(used + 2, 2) != [1, 0] {
        assert!(Instant::now() < deadline, "the packet did not come in");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(memory.bytes(used + 8, 4), 60u32.to_le_bytes());
    assert_eq!(memory.bytes(BUFFERS + 12, 48), [9; 48]);
    assert!(line.read().is_ok(), "the driver is interrupted");
    assert!(device.stop(Duration::from_secs(5)));
}
