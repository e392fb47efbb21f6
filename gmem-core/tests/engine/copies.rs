//! Copies for reading: several accelerators have a page at once, and nobody reads what is old.

use crate::accelerator::Sim;
use crate::placements::{PAGE, crowd, page, written};
use crate::simulated::{Fuse, bench, hbm};
use crate::watched::Flaky;
use crate::{touch, write_all};
use gmem_core::accel::{Advice, Placement, Reach};
use gmem_core::engine::{Destination, DeviceError};
use gmem_core::page::{PageRange, Unit};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;

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
fn copies_make_way_for_a_lower_cap_and_what_was_written_does_not() {
    let bench = written();
    let npu = Sim::new("npu", 64, 1).attach_adaptive(&bench);
    for n in 0..10 {
        npu.write(page(300 + n), n).unwrap();
        npu.read(page(n)).unwrap();
    }
    assert!(npu.attachment.set_cap(9 * PAGE).is_err());
    npu.attachment.set_cap(12 * PAGE).unwrap();
    assert_eq!(npu.attachment.usage().pages, 10);
    bench.audit_with(&[&npu]);
}

#[test]
fn a_page_is_read_by_two_accelerators_at_once_and_collapses_on_a_write() {
    let bench = written();
    let npu = Sim::new("npu", 64, 1).attach_adaptive(&bench);
    let gpu = Sim::new("gpu", 64, 16).attach_adaptive(&bench);
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
        // What was there when it was protected; or the writer was so fast that the copy had ended before it was read.
        assert!(found == n + 100 || found == 4242, "{found}");
        let joined = writers.try_iter().map(|writer| writer.join().unwrap());
        assert!(joined.count() > 0);
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
fn a_copy_that_fails_half_way_leaves_no_page_that_a_unit_would_wait_for() {
    let load = Fuse::new();
    let tier = Flaky {
        inner: hbm(512),
        store_fuse: Fuse::new(),
        load_fuse: load.clone(),
    };
    let bench = bench(512, 400, Unit::Page, vec![Box::new(tier)]);
    write_all(&bench, 16, |n| n + 100);
    let one = PageRange::new(page(9), 1);
    bench.engine.migrate(one, Destination::Tier(1)).unwrap();
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    load.fail_after(0);
    assert!(matches!(gpu.read(page(0)), Err(DeviceError::Failed(_))));
    assert!(bench.guest.is_protected(page(0)), "it got as far as that");
    bench.audit_with(&[&gpu]);
    gpu.attachment.set_placement(Placement::Remote);
    gpu.write(page(0), 1).unwrap();
    assert_eq!(gpu.read(page(9)).unwrap(), 109);
    bench.guest.write(page(1), 2);
    assert_eq!(gpu.read(page(1)).unwrap(), 2);
    bench.audit_with(&[&gpu]);
}

#[test]
fn a_pinned_granule_that_cannot_be_protected_is_read_where_it_is() {
    let bench = written();
    bench.guest.protects.store(false, Ordering::SeqCst);
    let gpu = Sim::reaching("gpu", 64, 16).attach_adaptive(&bench);
    gpu.attachment.advise(4 * PAGE, 1, Advice::Pinned).unwrap();
    gpu.write(page(0), 1).unwrap();
    // The granule has a hole, so that it is not protected at once.
    let one = PageRange::new(page(1), 1);
    bench.engine.free(one).unwrap();
    assert_eq!(gpu.read(page(0)).unwrap(), 1);
    assert_eq!(gpu.reach(page(0)), Some(Reach::Host));
    bench.audit_with(&[&gpu]);
}

#[test]
fn what_was_to_be_copied_and_is_not_is_reached_no_more() {
    let bench = written();
    bench.guest.protects.store(false, Ordering::SeqCst);
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    let blind = Sim::new("gpu", 64, 16).attach_adaptive(&bench);
    npu.attachment.set_placement(Placement::Remote);
    npu.attachment.advise(4 * PAGE, 1, Advice::Pinned).unwrap();
    for n in [0, 2, 3] {
        npu.write(page(n), 1).unwrap();
    }
    // The granule has a hole, so that it is not protected at once.
    let one = PageRange::new(page(1), 1);
    bench.engine.free(one).unwrap();
    assert!(matches!(
        blind.read(page(0)),
        Err(DeviceError::Pinned { .. })
    ));
    bench.audit_with(&[&npu, &blind]);
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
fn a_copy_in_a_full_memory_is_written_where_it_is() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    for n in 0..16 {
        npu.read(page(n)).unwrap();
    }
    let before = npu.attachment.traffic().bytes();
    npu.write(page(3), 33).unwrap();
    assert_eq!(npu.attachment.traffic().bytes(), before);
    assert!(matches!(
        npu.reach(page(3)),
        Some(Reach::Local { writable: true, .. })
    ));
    touch(&bench, 3);
    assert_eq!(bench.guest.read(page(3)), Some(33));
    bench.audit_with(&[&npu]);
}
