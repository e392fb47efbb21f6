//! Where accelerators find what they touch: in their own memory, alone or as a copy, or beneath the guest.

use crate::accelerator::{Sim, User};
use crate::simulated::{Bench, bench, hbm};
use crate::{touch, verify_all, write_all};
use gmem_core::accel::{Advice, Placement, Reach, Traffic};
use gmem_core::engine::{Destination, DeviceError};
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange, Unit};

pub const PAGE: u64 = PAGE_SIZE as u64;

pub fn page(n: u64) -> PageNo {
    PageNo(n)
}

/// 512 pages of which the guest has written the first 256.
pub fn written() -> Bench {
    let bench = bench(512, 400, Unit::Page, vec![hbm(512)]);
    write_all(&bench, 256, |n| n + 100);
    bench
}

/// Fills an accelerator's memory of 16 pages with pages of its own, from page 300 on.
pub fn crowd(user: &User) {
    for n in 300..316 {
        user.write(page(n), n + 100).unwrap();
    }
}

#[test]
fn a_page_is_reached_remotely_until_it_is_hot() {
    let bench = written();
    let npu = Sim::reaching("npu", 16, 1).attach_adaptive(&bench);
    crowd(&npu);
    // Each access counts 512 bytes: the ninth has paid for more than the page.
    for access in 1..9 {
        assert_eq!(npu.read(page(7)).unwrap(), 107);
        assert_eq!(npu.reach(page(7)), Some(Reach::Host), "access {access}");
    }
    assert_eq!(bench.guest.read(page(7)), Some(107));
    let before = npu.attachment.traffic();
    assert_eq!((before.remote, before.copied_in), (8 * 512, 0));
    assert_eq!(npu.read(page(7)).unwrap(), 107);
    assert!(npu.has_copy(page(7)));
    assert_eq!(npu.attachment.traffic().copied_in, PAGE);
    bench.audit_with(&[&npu]);
    for n in 0..9 {
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
fn a_page_that_changes_hands_again_and_again_is_used_where_it_is() {
    let bench = written();
    let npu = Sim::reaching("npu", 64, 1).attach_adaptive(&bench);
    for round in 0..20 {
        npu.add(page(5), 1).unwrap();
        touch(&bench, 5);
        assert!(bench.guest.add_if_present(page(5), 1));
        let moved = npu.attachment.traffic().migrated_in / PAGE;
        assert!(moved <= 3, "{moved} times in round {round}");
    }
    assert_eq!(npu.reach(page(5)), Some(Reach::Host));
    assert_eq!(bench.guest.first_word(page(5)), Some(105 + 40));
    bench.audit_with(&[&npu]);
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
