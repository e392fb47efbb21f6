//! The worker behind the registers.

use super::*;
use crate::virtio::mmio::register::*;
use crate::virtio::testing::BUFFERS;

#[test]
fn a_source_that_nobody_wants_keeps_nobody_busy() {
    let (mut device, seen) = probe();
    let source = EventFd::new(EFD_NONBLOCK).unwrap();
    source.write(1).unwrap();
    device.source = Some(source);
    let mut driver = Registers::started(device);
    driver.send(0);
    driver.notify(0);
    driver.wait_used(0, 1);
    // One look may have been under way before the first answer.
    let ready = || seen.ready.load(Ordering::Relaxed);
    let before = ready();
    assert!(before <= 4, "{before}");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(ready(), before);
    // Now it is wanted, from the next call on, and stays readable.
    seen.wants.store(true, Ordering::Relaxed);
    driver.notify(0);
    wait(|| ready() > before + 10);
    // Without a driver nobody wants it.
    driver.write(STATUS, 0);
    thread::sleep(Duration::from_millis(20));
    let after = ready();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(ready(), after);
    driver.start();
    wait(|| ready() > after);
}

#[test]
fn a_device_that_is_held_does_nothing_and_goes_on_afterwards() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    let held = driver.device.hold();
    assert_eq!(seen.settled.load(Ordering::Relaxed), 1);
    driver.rings[0].send(&driver.memory, &[(BUFFERS, 16, false)]);
    driver.notify(0);
    thread::sleep(Duration::from_millis(30));
    assert_eq!(seen.served.load(Ordering::Relaxed), 0);
    drop(held);
    driver.wait_used(0, 1);
}

#[test]
fn a_stopped_device_serves_nobody_any_more() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    assert!(driver.device.stop(Duration::from_secs(10)));
    driver.send(0);
    driver.notify(0);
    driver.start();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(seen.served.load(Ordering::Relaxed), 0);
    assert!(
        driver.device.stop(Duration::ZERO),
        "there is nothing to stop"
    );
}

#[test]
fn a_device_that_is_busy_is_not_waited_for_beyond_the_limit() {
    let (device, seen) = probe();
    let driver = Registers::started(device);
    *seen.slow.lock().unwrap() = Duration::from_millis(700);
    driver.notify(0);
    wait(|| seen.slow.lock().unwrap().is_zero());
    let began = Instant::now();
    assert!(!driver.device.stop(Duration::from_millis(50)));
    assert!(began.elapsed() < Duration::from_millis(500));
}

/// Requests that come as fast as they are served: each call of the device ends all the same, and the lock is to
/// be had.
#[test]
fn a_driver_that_never_stops_asking_does_not_keep_others_out() {
    let (device, seen) = probe();
    let mut driver = Registers::started(device);
    let [_, avail, _] = driver.rings[0].addresses();
    driver.send(0);
    *seen.endless.lock().unwrap() = Some(avail + 2);
    driver.notify(0);
    let served = || seen.served.load(Ordering::Relaxed);
    wait(|| served() > 10_000);
    let answers = AtomicUsize::new(0);
    thread::scope(|scope| {
        // Ends the flood, also when this test fails.
        let _end = OnDrop(|| *seen.endless.lock().unwrap() = None);
        scope.spawn(|| {
            while answers.fetch_add(1, Ordering::Relaxed) < 20 {
                driver.device.metrics();
                driver.read(STATUS);
            }
        });
        wait(|| answers.load(Ordering::Relaxed) >= 20);
        let before = served();
        wait(|| served() > before + 10_000);
    });
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
