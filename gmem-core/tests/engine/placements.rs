//! Where accelerators find what they touch: in their own memory, alone or as a copy, or beneath the guest.

use crate::accelerator::{Sim, User};
use crate::simulated::{Bench, bench, hbm};
use crate::{touch, verify_all, write_all};
use gmem_core::accel::{Advice, Placement, Reach, Traffic};
use gmem_core::engine::{Destination, DeviceError};
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange, Unit};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;

const PAGE: u64 = PAGE_SIZE as u64;

fn page(n: u64) -> PageNo {
    PageNo(n)
}

/// 512 pages of which the guest has written the first 256.
fn written() -> Bench {
    let bench = bench(512, 400, Unit::Page, vec![hbm(512)]);
    write_all(&bench, 256, |n| n + 100);
    bench
}

/// Fills an accelerator's memory of 16 pages with pages of its own, from page 300 on.
fn crowd(user: &User) {
    for n in 300..316 {
        user.write(page(n), n + 100).unwrap();
    }
}

#[test]
fn a_page_is_reached_remotely_until_it_is_hot() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    crowd(&npu);
    // Each access counts 512 bytes: the eighth has paid for the page.
    for access in 1..8 {
        assert_eq!(npu.read(page(7)).unwrap(), 107);
        assert_eq!(npu.reach(page(7)), Some(Reach::Host), "access {access}");
    }
    assert_eq!(bench.guest.read(page(7)), Some(107));
    let before = npu.attachment.traffic();
    assert_eq!((before.remote, before.copied_in), (7 * 512, 0));
    assert_eq!(npu.read(page(7)).unwrap(), 107);
    assert!(npu.has_copy(page(7)));
    assert_eq!(npu.attachment.traffic().copied_in, PAGE);
    bench.audit_with(&[&npu]);
    for n in 0..8 {
        npu.write(page(9), n).unwrap();
    }
    assert!(matches!(
        npu.reach(page(9)),
        Some(Reach::Local { writable: true, .. })
    ));
    bench.audit_with(&[&npu]);
}

#[test]
fn while_there_is_room_what_is_read_is_copied_and_what_is_written_migrates() {
    let bench = written();
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    assert_eq!(gpu.read(page(20)).unwrap(), 120);
    assert!(gpu.has_copy(page(20)) && gpu.has_copy(page(31)));
    assert_eq!(bench.guest.read(page(20)), Some(120), "the owner keeps it");
    gpu.write(page(40), 1).unwrap();
    assert_eq!(bench.guest.read(page(40)), None);
    let expected = Traffic {
        copied_in: 16 * PAGE,
        migrated_in: 16 * PAGE,
        ..Traffic::default()
    };
    assert_eq!(gpu.attachment.traffic(), expected);
    bench.audit_with(&[&gpu]);
}

#[test]
fn what_nobody_has_written_crosses_no_link() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    for n in 300..316 {
        assert_eq!(npu.read(page(n)).unwrap(), 0);
    }
    assert_eq!(npu.attachment.traffic(), Traffic::default());
}

#[test]
fn a_clean_copy_is_dropped_not_copied() {
    let bench = written();
    let sim = Sim::new("npu", 16, 1);
    let npu = sim.attach_adaptive(&bench);
    for _ in 0..3 {
        for n in 0..48 {
            assert_eq!(npu.read(page(n)).unwrap(), n + 100);
        }
        let traffic = npu.attachment.traffic();
        assert_eq!(traffic.dropped, traffic.copied_in / PAGE - 16);
        assert_eq!((traffic.migrated_in, traffic.migrated_out), (0, 0));
    }
    bench.audit_with(&[&npu]);
}

#[test]
fn a_page_is_read_by_two_accelerators_at_once_and_collapses_on_a_write() {
    let bench = written();
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    let all = [&npu, &gpu];
    for round in 0..4 {
        let word = 1000 + round;
        for user in all {
            user.read(page(5)).unwrap();
        }
        assert!(all.iter().all(|user| user.has_copy(page(5))));
        bench.audit_with(&all);
        match round {
            0 => bench.guest.write(page(5), word),
            1 => npu.write(page(5), word).unwrap(),
            2 => gpu.write(page(5), word).unwrap(),
            _ => {
                bench.engine.free(PageRange::new(page(5), 1)).unwrap();
                assert_eq!(npu.read(page(5)).unwrap(), 0);
                continue;
            }
        }
        bench.audit_with(&all);
        for user in all {
            assert_eq!(user.read(page(5)).unwrap(), word);
        }
        touch(&bench, 5);
        assert_eq!(bench.guest.read(page(5)), Some(word));
        bench.audit_with(&all);
    }
    assert!(npu.attachment.traffic().collapsed >= 3);
}

#[test]
fn a_page_that_another_accelerator_wrote_is_read_by_both() {
    let bench = written();
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    npu.write(page(5), 55).unwrap();
    assert_eq!(gpu.read(page(5)).unwrap(), 55);
    assert_eq!(npu.read(page(5)).unwrap(), 55);
    assert!(npu.has_copy(page(5)) && gpu.has_copy(page(5)));
    bench.audit_with(&[&npu, &gpu]);
}

#[test]
fn a_write_makes_a_copy_the_accelerators_own_and_nothing_crosses_the_link() {
    let bench = written();
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    for place in [None, Some(Destination::Staged), Some(Destination::Tier(1))] {
        let n = 16 * place.map_or(0, |_| 1 + bench.engine.snapshot().device_faults.count);
        assert_eq!(gpu.read(page(n)).unwrap(), n + 100);
        let range = PageRange::new(page(n), 16);
        // Where the owner is makes no difference, and the copy stays when it moves.
        if let Some(place) = place {
            bench.engine.migrate(range, place).unwrap();
        }
        assert!(gpu.has_copy(page(n + 3)), "{place:?}");
        let before = gpu.attachment.traffic();
        gpu.write(page(n), 1).unwrap();
        let after = gpu.attachment.traffic();
        assert_eq!(
            (after.bytes(), after.upgraded),
            (before.bytes(), before.upgraded + 16)
        );
        bench.audit_with(&[&gpu]);
        touch(&bench, n);
        touch(&bench, n + 1);
        assert_eq!(bench.guest.read(page(n)), Some(1));
        assert_eq!(bench.guest.read(page(n + 1)), Some(n + 101));
    }
}

#[test]
fn a_vcpu_that_writes_between_protection_and_copy_waits_and_is_not_lost() {
    let bench = Arc::new(written());
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    let (started, writers) = mpsc::channel();
    let of_hook = Arc::downgrade(&bench);
    *bench.guest.on_protect.lock().unwrap() = Some(Box::new(move |page| {
        let bench = of_hook.upgrade().unwrap();
        let (about_to, is_about_to) = mpsc::channel();
        let writer = thread::spawn(move || {
            about_to.send(()).unwrap();
            bench.guest.write(page, 4242);
        });
        is_about_to.recv().unwrap();
        // It finds the page protected, and waits for the lock that is held here.
        thread::yield_now();
        started.send(writer).unwrap();
    }));
    for n in 0..32 {
        let found = npu.read(page(n)).unwrap();
        assert_eq!(found, n + 100, "what was there when it was protected");
        writers.recv().unwrap().join().unwrap();
        assert_eq!(bench.guest.read(page(n)), Some(4242));
        assert!(!npu.has_copy(page(n)), "the write ended the copy");
    }
    *bench.guest.on_protect.lock().unwrap() = None;
    for n in 0..32 {
        assert_eq!(npu.read(page(n)).unwrap(), 4242);
    }
    bench.audit_with(&[&npu]);
}

#[test]
fn where_pages_cannot_be_protected_they_migrate() {
    let bench = written();
    bench.guest.protects.store(false, Ordering::SeqCst);
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    assert_eq!(npu.read(page(5)).unwrap(), 105);
    assert!(matches!(
        npu.reach(page(5)),
        Some(Reach::Local { writable: true, .. })
    ));
    // One that is held elsewhere needs no protection.
    let range = PageRange::new(page(6), 1);
    bench.engine.migrate(range, Destination::Tier(1)).unwrap();
    assert_eq!(npu.read(page(6)).unwrap(), 106);
    assert!(npu.has_copy(page(6)));
    bench.audit_with(&[&npu]);
}

#[test]
fn what_leaves_the_guest_is_out_of_every_accelerators_reach_first() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    let gpu = Sim::reaching("gpu", 16, 16).attach_adaptive(&bench);
    for user in [&npu, &gpu] {
        user.attachment.set_placement(Placement::Remote);
    }
    let one = PageRange::new(page(20), 1);
    for to in [Destination::Staged, Destination::Tier(1)] {
        for user in [&npu, &gpu] {
            user.write(page(20), 77).unwrap();
            assert_eq!(user.reach(page(20)), Some(Reach::Host));
        }
        bench.audit_with(&[&npu, &gpu]);
        bench.engine.migrate(one, to).unwrap();
        assert_eq!((npu.reach(page(20)), gpu.reach(page(20))), (None, None));
        assert_eq!(gpu.reach(page(21)), None, "the whole granule went");
        bench.audit_with(&[&npu, &gpu]);
        assert_eq!(gpu.read(page(20)).unwrap(), 77);
    }
    assert_eq!(npu.read(page(20)).unwrap(), 77);
    bench.engine.free(one).unwrap();
    assert_eq!((npu.reach(page(20)), gpu.reach(page(20))), (None, None));
    assert_eq!(npu.read(page(20)).unwrap(), 0);
    bench.audit_with(&[&npu, &gpu]);
}

#[test]
fn a_page_that_is_pinned_beneath_the_guest_is_written_there() {
    let bench = written();
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    let blind = Sim::new("gpu", 64, 1).attach_adaptive(&bench);
    npu.attachment.advise(5 * PAGE, 1, Advice::Pinned).unwrap();
    assert_eq!(npu.read(page(5)).unwrap(), 105);
    npu.write(page(5), 55).unwrap();
    assert_eq!(npu.reach(page(5)), Some(Reach::Host));
    assert_eq!(bench.guest.read(page(5)), Some(55));
    // One that cannot may read it, and is told why it may not write.
    assert_eq!(blind.read(page(5)).unwrap(), 55);
    let refused = blind.write(page(5), 1);
    assert!(matches!(refused, Err(DeviceError::Pinned { page: p }) if p == page(5)));
    bench.audit_with(&[&npu, &blind]);
}

#[test]
fn prefetch_copies_what_is_somebodys_and_a_write_then_moves_nothing() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    crowd(&npu);
    npu.attachment
        .advise(8 * PAGE, 4 * PAGE, Advice::Prefetch)
        .unwrap();
    assert!((8..12).all(|n| npu.has_copy(page(n))));
    let before = npu.attachment.traffic().bytes();
    npu.write(page(8), 1).unwrap();
    assert_eq!(npu.attachment.traffic().bytes(), before);
    bench.audit_with(&[&npu]);
}

#[test]
fn what_will_be_needed_is_passed_by_once() {
    let bench = written();
    let npu = Sim::new("npu", 16, 1).attach_adaptive(&bench);
    for n in 0..16 {
        npu.read(page(n)).unwrap();
    }
    npu.attachment
        .advise(0, 4 * PAGE, Advice::WillNeed)
        .unwrap();
    for n in 16..20 {
        npu.read(page(n)).unwrap();
    }
    assert!((0..4).all(|n| npu.has_copy(page(n))));
    for n in (64..80).chain(20..48) {
        npu.read(page(n)).unwrap();
    }
    assert!((0..4).any(|n| !npu.has_copy(page(n))), "once, not for ever");
    bench.audit_with(&[&npu]);
}

#[test]
fn a_map_that_fails_loses_nothing_whatever_was_to_be_mapped() {
    let bench = written();
    let sim = Sim::reaching("gpu", 64, 16);
    let gpu = sim.attach_adaptive(&bench);
    for (placement, from) in [(Placement::Adaptive, 0), (Placement::Remote, 64)] {
        gpu.attachment.set_placement(placement);
        for n in [from, from + 20, from + 40] {
            let expected = |word: u64| word == n + 100;
            sim.tables.map_fuse.fail_after(0);
            assert!(matches!(gpu.read(page(n)), Err(DeviceError::Map(_))));
            bench.audit_with(&[&gpu]);
            assert!(expected(gpu.read(page(n)).unwrap()));
            sim.tables.map_fuse.fail_after(0);
            // To its own memory for writing: the copy stays, or the page beneath the guest.
            if gpu.has_copy(page(n)) {
                assert!(matches!(gpu.write(page(n), 1), Err(DeviceError::Map(_))));
            }
            sim.tables.map_fuse.never();
            bench.audit_with(&[&gpu]);
            assert!(expected(gpu.read(page(n)).unwrap()));
        }
    }
    verify_all(&bench, 256, |n| n + 100);
    bench.audit_with(&[&gpu]);
}

#[test]
fn a_device_that_is_detached_leaves_neither_copies_nor_mappings() {
    let bench = written();
    let sim = Sim::reaching("gpu", 64, 16);
    for placement in [Placement::Adaptive, Placement::Remote] {
        let gpu = sim.attach_adaptive(&bench);
        gpu.attachment.set_placement(placement);
        for n in (0..48).step_by(16) {
            gpu.read(page(n)).unwrap();
        }
        gpu.attachment.advise(0, PAGE, Advice::Pinned).unwrap();
        gpu.attachment.detach().unwrap();
        assert_eq!(
            (sim.accelerator.memory().free_pages(), sim.tables.open()),
            (64, 0)
        );
        verify_all(&bench, 256, |n| n + 100);
        bench.guest.write(page(3), 103);
        bench.audit();
    }
}
