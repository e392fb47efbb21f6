//! A driver that keeps to the rules, or nearly.

use super::*;
use crate::virtio::mmio::register::*;

#[test]
fn a_driver_finds_out_what_is_there() {
    let driver = Registers::new(probe().0);
    assert_eq!(driver.read(MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(register::VERSION), 2);
    assert_eq!(driver.read(DEVICE_ID), 42);
    assert_eq!(driver.read(VENDOR_ID).to_le_bytes(), *b"gmem");
    assert_eq!(driver.read(STATUS), 0);
    assert_eq!(driver.read(INTERRUPT_STATUS), 0);
    assert_eq!(
        (driver.read(SHM_LEN_LOW), driver.read(SHM_LEN_HIGH)),
        (u32::MAX, u32::MAX)
    );
    for (queue, size) in [(0, 8), (1, 4), (2, 0), (u32::MAX, 0)] {
        driver.write(QUEUE_SEL, queue);
        assert_eq!(
            (driver.read(QUEUE_NUM_MAX), driver.read(QUEUE_READY)),
            (size, 0)
        );
    }
    let transport = VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;
    assert_eq!(driver.offered(), FEATURES | transport);
    driver.write(DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.read(DEVICE_FEATURES), 0);
}

#[test]
fn a_driver_that_keeps_to_the_rules_is_served_and_interrupted() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    let agreed = AGREED | OK | VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    assert_eq!(driver.read(STATUS), agreed);
    assert_eq!(*seen.features.lock().unwrap(), driver.offered());
    for _ in 0..50 {
        driver.send(0);
        driver.send(0);
        driver.notify(0);
        driver.wait_used(0, 2);
        assert_eq!(driver.interrupt(), 1);
        assert_eq!(driver.read(INTERRUPT_STATUS), 0);
    }
    driver.send(1);
    driver.notify(1);
    driver.wait_used(1, 1);
    assert_eq!(driver.device.metrics(), Some((101.into(), None)));
}

#[test]
fn there_is_no_shared_memory() {
    let driver = Registers::new(probe().0);
    for offset in (0xb0..0xc0).step_by(4) {
        assert_eq!(driver.read(offset), u32::MAX, "{offset:#x}");
    }
}

#[test]
fn features_are_agreed_on_or_refused() {
    let driver = Registers::new(probe().0);
    assert_ne!(driver.negotiate(VERSION_1) & AGREED, 0, "fewer are fine");
    assert_eq!(driver.negotiate(FEATURES) & AGREED, 0, "an old driver");
    let unknown = VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM;
    assert_eq!(
        driver.negotiate(unknown) & AGREED,
        0,
        "one that nobody offered"
    );
    assert_eq!(
        driver.add_status(OK) & OK,
        0,
        "and without agreement nobody starts"
    );
    driver.accept(VERSION_1);
    assert_ne!(
        driver.add_status(AGREED) & AGREED,
        0,
        "a second try is allowed"
    );
}

#[test]
fn what_is_agreed_stays_agreed() {
    let (device, seen) = probe();
    let driver = Registers::new(device);
    driver.negotiate(VERSION_1);
    driver.accept(VERSION_1 | FEATURES);
    driver.add_status(OK);
    assert_eq!(*seen.features.lock().unwrap(), VERSION_1);
    driver.write(STATUS, OK);
    assert_ne!(
        driver.read(STATUS) & AGREED,
        0,
        "status bits are not taken back"
    );
    assert_eq!(seen.started.load(Ordering::Relaxed), 1, "nor set twice");
}

#[test]
fn what_comes_before_the_driver_is_ready_waits_for_it() {
    let (device, seen) = probe();
    let mut driver = Registers::new(device);
    driver.start();
    driver.negotiate(driver.offered());
    let addresses = driver.rings[0].addresses();
    driver.set_up(0, 8, addresses);
    driver.send(0);
    driver.notify(0);
    driver.notify(7);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(seen.served.load(Ordering::Relaxed), 0);
    driver.add_status(OK);
    driver.wait_used(0, 1);
}

#[test]
fn queues_are_set_up_before_the_driver_is_ready_and_not_after() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    driver.set_up(0, 2, [0xdead_0000; 3]);
    assert_eq!(driver.read(QUEUE_READY), 1);
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
    assert_eq!(seen.served.load(Ordering::Relaxed), 1);
    assert_eq!(driver.read(STATUS) & BROKEN, 0);
}

#[test]
fn a_queue_that_the_driver_takes_back_is_left_alone_until_a_reset() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    driver.write(QUEUE_SEL, 9);
    driver.write(QUEUE_READY, 0);
    assert_eq!(seen.settled.load(Ordering::Relaxed), 0, "there is none");
    driver.write(QUEUE_SEL, 0);
    driver.write(QUEUE_READY, 0);
    assert_eq!(driver.read(QUEUE_READY), 0, "a driver waits for this");
    assert_eq!(seen.settled.load(Ordering::Relaxed), 1);
    driver.write(QUEUE_READY, 1);
    assert_eq!(driver.read(QUEUE_READY), 0, "and not taken up again");
    let [table, _, used] = driver.rings[0].addresses();
    driver.send(0);
    let before = driver.memory.bytes(table, (used - table + 100) as usize);
    driver.notify(0);
    // The other one goes on.
    driver.send(1);
    driver.notify(1);
    driver.wait_used(1, 1);
    wait(|| seen.served.load(Ordering::Relaxed) == 1);
    let after = driver.memory.bytes(table, (used - table + 100) as usize);
    assert!(before == after, "its rings are not touched");
    assert_eq!(driver.read(STATUS) & BROKEN, 0);
    driver.start();
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
}

#[test]
fn a_queue_that_is_not_in_use_has_nothing_and_touches_nothing() {
    let (device, seen) = probe();
    let mut driver = Registers::new(device);
    driver.start();
    driver.negotiate(driver.offered());
    // Queue 1 only: the rings of queue 0 are nowhere.
    let addresses = driver.rings[1].addresses();
    driver.set_up(1, 4, addresses);
    driver.memory.put(0, &[0x5a; 64]);
    driver.add_status(OK);
    driver.notify(0);
    driver.send(1);
    driver.notify(1);
    driver.wait_used(1, 1);
    assert_eq!(seen.served.load(Ordering::Relaxed), 1);
    assert_eq!(driver.read(STATUS) & BROKEN, 0);
    assert_eq!(driver.memory.bytes(0, 64), [0x5a; 64]);
}

#[test]
fn a_reset_makes_everything_as_it_was() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
    driver.write(STATUS, 0);
    assert_eq!((driver.read(STATUS), driver.read(INTERRUPT_STATUS)), (0, 0));
    driver.write(QUEUE_SEL, 0);
    assert_eq!(driver.read(QUEUE_READY), 0);
    assert_eq!(driver.add_status(AGREED) & AGREED, 0, "nothing is accepted");
    let resets = seen.resets.load(Ordering::Relaxed);
    driver.start();
    assert_eq!(seen.resets.load(Ordering::Relaxed), resets + 1);
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
}

#[test]
fn the_configuration_is_read_in_any_width_and_is_zero_beyond_its_end() {
    let driver = Registers::new(probe().0);
    let read = |offset: u64, len: usize| {
        let mut data = vec![0xaa; len];
        driver.device.read(offset, &mut data);
        data
    };
    assert_eq!(read(0x100, 8), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read(0x103, 2), [4, 5]);
    assert_eq!(read(0x108, 4), [9, 10, 0, 0]);
    assert_eq!(read(0x10a, 1), [0]);
    assert_eq!(read(u64::MAX, 4), [0; 4]);
    assert_eq!(read(0x70, 1), [0], "a register is a word");
    assert_eq!(read(0x01, 4), [0; 4]);
    assert_eq!(read(0x00, 8), *b"virt\0\0\0\0");
}

#[test]
fn the_configuration_is_written_within_its_bounds_only() {
    let (device, seen) = probe();
    let driver = Registers::new(device);
    driver.device.write(0x108, &[77, 78]);
    driver.device.write(0x109, &[99, 99]);
    driver.device.write(0x10a, &[99]);
    driver.device.write(u64::MAX, &[99; 8]);
    assert_eq!(
        *seen.config.lock().unwrap(),
        [1, 2, 3, 4, 5, 6, 7, 8, 77, 78]
    );
}

#[test]
fn a_configuration_that_changes_while_it_is_read_is_of_another_generation() {
    let (device, seen) = probe();
    let driver = Registers::new(device);
    let change = |byte| seen.config.lock().unwrap()[0] = byte;
    let generation = || driver.read(CONFIG_GENERATION);
    let before = generation();
    assert_eq!(generation(), before);
    change(2);
    let after = generation();
    assert_ne!(after, before);
    // There and back again: what was read between is not what is there.
    change(3);
    let mut byte = [0];
    driver.device.read(0x100, &mut byte);
    change(2);
    assert_ne!(generation(), after);
    driver.device.config_changed();
    assert_eq!(driver.interrupt(), 2);
}
