//! A driver that follows no rule.

use proptest::prelude::*;

use super::*;
use crate::virtio::mmio::register::*;

#[test]
fn rings_outside_guest_memory_break_the_device_until_it_is_reset() {
    let good = [0x8000, 0x8100, 0x8200];
    for (place, wrong) in [0, 1, 2].into_iter().flat_map(|place| {
        [1 << 40, (2 << 20) - 2, (4 << 20) - 16, !0xfff].map(|wrong| (place, wrong))
    }) {
        let (device, seen) = probe();
        let mut driver = Registers::new(device);
        driver.negotiate(driver.offered());
        let mut addresses = good;
        addresses[place] = wrong & !0xf;
        driver.set_up(0, 8, addresses);
        assert_ne!(driver.add_status(OK) & BROKEN, 0, "{addresses:x?}");
        assert_eq!(driver.interrupt(), 2);
        let cause = driver.device.metrics().unwrap().1.unwrap();
        assert!(cause.contains("queue 0"), "{cause}");
        assert_eq!(seen.started.load(Ordering::Relaxed), 0);
        // All it takes is a reset.
        assert_eq!(driver.start() & BROKEN, 0);
        driver.send(0);
        driver.notify(0);
        driver.wait_used(0, 1);
    }
}

#[test]
fn a_size_that_no_queue_has_is_not_taken() {
    let mut driver = Registers::new(probe().0);
    driver.negotiate(driver.offered());
    driver.start();
    for size in [0, 3, 16, 1 << 16, u32::MAX] {
        driver.write(STATUS, 0);
        driver.negotiate(driver.offered());
        driver.rings[0].clear(&driver.memory);
        let addresses = driver.rings[0].addresses();
        driver.set_up(0, size, addresses);
        driver.add_status(OK);
        driver.notify(0);
        assert_eq!(driver.read(STATUS) & BROKEN, 0);
    }
}

#[test]
fn an_available_index_that_makes_no_sense_breaks_the_device_and_a_reset_mends_it() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    driver.rings[0].set_avail_index(&driver.memory, 9);
    driver.notify(0);
    assert_eq!(driver.interrupt(), 2);
    assert_ne!(driver.read(STATUS) & BROKEN, 0);
    assert_eq!(
        driver.device.metrics().unwrap().1.unwrap(),
        "9 requests in a queue of 8"
    );
    assert_eq!(
        seen.resets.load(Ordering::Relaxed),
        2,
        "one at the start, one now"
    );
    // It is deaf until it is reset.
    driver.rings[0].set_avail_index(&driver.memory, 1);
    driver.notify(0);
    thread::sleep(Duration::from_millis(20));
    assert_eq!(seen.served.load(Ordering::Relaxed), 0);
    driver.start();
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
}

#[test]
fn a_head_that_is_not_in_the_table_breaks_the_device() {
    let mut driver = Registers::started(probe().0);
    driver.rings[0].offer(&driver.memory, 8);
    driver.notify(0);
    assert_eq!(driver.interrupt(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever is read and written, in whatever width, the next reset makes a device that works.
    #[test]
    fn no_accesses_harm_more_than_a_reset_mends(
        accesses in prop::collection::vec(
            (
                prop_oneof![(0..0x120u64 / 4).prop_map(|word| word * 4), 0..0x1100u64, any::<u64>()],
                prop_oneof![0..16u32, any::<u32>()],
                prop::sample::select(vec![1usize, 2, 4, 4, 4, 8]),
                any::<bool>(),
            ),
            0..200,
        ),
    ) {
        let mut driver = Registers::new(probe().0);
        for (offset, value, width, write) in accesses {
            let mut data = [u64::from(value), u64::from(value)].map(u64::to_le_bytes).concat();
            data.truncate(width);
            match write {
                true => driver.device.write(offset, &data),
                false => driver.device.read(offset, &mut data),
            }
        }
        prop_assert_eq!(driver.start() & (OK | BROKEN), OK);
        driver.send(0);
        driver.notify(0);
        driver.wait_used(0, 1);
    }
}
