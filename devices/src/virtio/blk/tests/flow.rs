//! Many requests, resets, limits.

use std::num::NonZeroU64;

use super::*;
use crate::virtio::testing::{BUFFERS, Registers};
use crate::virtio::{Limit, Rate};

#[test]
fn more_requests_than_slots_are_all_answered() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let Part::Out(head) = header(VIRTIO_BLK_T_IN, 5) else {
            unreachable!()
        };
        let (data, status) = (BUFFERS + 0x1000, BUFFERS + 0x2000);
        bench.memory.put(BUFFERS, &head);
        let buffers = [(BUFFERS, 16, false), (data, 512, true), (status, 1, true)];
        let mut answers = 0;
        // The same three descriptors again and again: a rude driver, but a possible one.
        let head = bench.rings[0].send(&bench.memory, &buffers);
        for round in 0..2 {
            for _ in 0..255 - usize::from(round == 0) {
                bench.rings[0].offer(&bench.memory, head);
            }
            bench.notify(0).unwrap();
        }
        bench
            .serve_until(|bench| {
                answers += bench.used(0).len();
                answers == 2 * 255
            })
            .unwrap();
        assert_eq!(bench.memory.bytes(data, 512), [6; 512]);
    }
}

#[test]
fn a_reset_waits_for_what_writes_to_guest_memory() {
    let image = Image::new();
    let mut bench = image.open("io_uring");
    let mut sent = Vec::new();
    for sector in 0..60 {
        sent.push(bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(2048), Part::In(1)],
        ));
    }
    bench.notify(0).unwrap();
    bench.device.reset();
    let fill = |bench: &Bench<Blk>| {
        let parts = sent.iter().map(|sent| bench.part(sent, 1));
        parts.flatten().collect::<Vec<u8>>()
    };
    let after = fill(&bench);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(fill(&bench), after, "nobody writes any more");
    assert!(bench.used(0).is_empty(), "and nothing is answered");
    // And the device works for the next driver.
    bench.set_up();
    bench.start(bench.device.features()).unwrap();
    let parts = [header(VIRTIO_BLK_T_IN, 1), Part::In(512), Part::In(1)];
    assert_eq!(ask(&mut bench, &parts).0, OK);
}

#[test]
fn a_device_that_holds_still_has_answered_everything() {
    let image = Image::new();
    let mut bench = image.open("io_uring");
    for sector in 0..60 {
        bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(1024), Part::In(1)],
        );
    }
    bench.notify(0).unwrap();
    bench.with(|device, guest| device.settle(guest)).unwrap();
    assert_eq!(bench.used(0).len(), 60);
    assert!(bench.interrupted());
}

#[test]
fn the_rate_limit_spreads_requests_over_time() {
    let image = Image::new();
    let limit = Limit {
        per_second: NonZeroU64::new(100 * 512).unwrap(),
        burst: NonZeroU64::new(512).unwrap(),
    };
    let rate = Some(Rate {
        bytes: Some(limit),
        operations: None,
    });
    let blk = open(
        BlkOptions {
            rate,
            ..image.options()
        },
        "io_uring",
    )
    .unwrap();
    let mut bench = Bench::started(blk);
    let began = std::time::Instant::now();
    for sector in 0..11 {
        bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(512), Part::In(1)],
        );
    }
    bench.notify(0).unwrap();
    let mut answers = 0;
    bench
        .serve_until(|bench| {
            answers += bench.used(0).len();
            answers == 11
        })
        .unwrap();
    assert!(began.elapsed().as_millis() >= 90, "{:?}", began.elapsed());
    assert!(bench.device.metrics()["held_back"].as_u64().unwrap() >= 9);
}

#[test]
fn a_file_that_shrinks_fails_its_reads_only() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        image.0.as_file().set_len(10 * SECTOR as u64 + 100).unwrap();
        let parts = [header(VIRTIO_BLK_T_IN, 9), Part::In(1024), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, IOERR);
        let parts = [header(VIRTIO_BLK_T_IN, 8), Part::In(1024), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, OK);
    }
}

#[test]
fn without_flushes_writes_are_stable_at_once() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = Bench::new(open(image.options(), engine).unwrap());
        let features = bench.device.features() & !(1 << VIRTIO_BLK_F_FLUSH);
        bench.start(features).unwrap();
        assert!(bench.device.state().write_through);
        let parts = [
            header(VIRTIO_BLK_T_OUT, 0),
            Part::Out(vec![9; 512]),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        let parts = [
            header(VIRTIO_BLK_T_WRITE_ZEROES, 0),
            range(1, 1, 0),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        assert_eq!(image.bytes()[..1024], [[9; 512], [0; 512]].concat());
    }
}

/// Sends a read of each of `sectors`, one after the other, to its own buffer; where the buffers are.
fn read_all(driver: &mut Registers, sectors: std::ops::Range<u64>) -> Vec<u64> {
    sectors
        .map(|sector| {
            let at = BUFFERS + sector * 0x1000;
            let Part::Out(head) = header(VIRTIO_BLK_T_IN, sector) else {
                unreachable!()
            };
            driver.memory.put(at, &head);
            driver.memory.put(at + 16, &[0xee; 513]);
            let buffers = [(at, 16, false), (at + 16, 512, true), (at + 528, 1, true)];
            driver.rings[0].send(&driver.memory, &buffers);
            at + 16
        })
        .collect()
}

#[test]
fn the_worker_serves_a_disk_and_a_reset_by_another_thread_waits_for_the_kernel() {
    for engine in ENGINES {
        let image = Image::new();
        let mut driver = Registers::started(open(image.options(), engine).unwrap());
        for round in 0..50 {
            image.forget();
            let buffers = read_all(&mut driver, 0..60);
            driver.notify(0);
            if round % 2 == 0 {
                driver.wait_used(0, 60);
                for (sector, at) in buffers.iter().enumerate() {
                    assert_eq!(driver.memory.bytes(*at, 512), [sector as u8 + 1; 512]);
                }
            } else {
                // At a different moment each time.
                std::thread::sleep(std::time::Duration::from_micros(round * 7));
                driver.write(crate::virtio::mmio::register::STATUS, 0);
                let seen = |at: &u64| driver.memory.bytes(*at, 512);
                let before: Vec<_> = buffers.iter().map(seen).collect();
                std::thread::sleep(std::time::Duration::from_millis(2));
                assert!(before == buffers.iter().map(seen).collect::<Vec<_>>());
                driver.start();
            }
        }
        let (_, broken) = driver.device.metrics().unwrap();
        assert_eq!(broken, None);
    }
}

#[test]
fn a_disk_that_is_held_has_answered_what_it_took() {
    let image = Image::new();
    let mut driver = Registers::started(open(image.options(), "io_uring").unwrap());
    for _ in 0..20 {
        image.forget();
        read_all(&mut driver, 0..60);
        driver.notify(0);
        let held = driver.device.hold();
        let answered = driver.rings[0].used(&driver.memory).len();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(driver.rings[0].used(&driver.memory), []);
        drop(held);
        driver.wait_used(0, 60 - answered);
    }
}
