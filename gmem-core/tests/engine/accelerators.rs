//! Accelerators and vCPUs in one address space. Each test of a gap of GMEM is named after what it does not do there.

use crate::accelerator::{Sim, User};
use crate::simulated::{Bench, bench, bench_with, hbm, zip};
use crate::{touch, verify_all, write_all};
use gmem_core::accel::Advice;
use gmem_core::engine::{AttachError, DeviceError, Outcome};
use gmem_core::page::{PageNo, PageRange, Unit};

fn page(n: u64) -> PageNo {
    PageNo(n)
}

#[test]
fn a_page_is_where_it_was_touched_last_with_what_was_written_last() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let (npu, gpu) = (Sim::new("npu", 64, 1), Sim::new("gpu", 64, 16));
    let (npu, gpu) = (npu.attach(&bench), gpu.attach(&bench));
    for round in 0..20 {
        let word = |who: u64| 1000 * (round + 1) + who;
        npu.write(page(100), word(1)).unwrap();
        assert_eq!(gpu.read(page(100)).unwrap(), word(1));
        bench.audit_with(&[&npu, &gpu]);
        gpu.write(page(100), word(2)).unwrap();
        touch(&bench, 100);
        assert_eq!(bench.guest.read(page(100)), Some(word(2)));
        bench.guest.write(page(100), word(3));
        assert_eq!(npu.read(page(100)).unwrap(), word(3));
        bench.audit_with(&[&npu, &gpu]);
    }
}

#[test]
fn what_nobody_has_written_reads_as_zeros_on_every_accelerator() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let gpu = Sim::new("gpu", 32, 16).attach(&bench);
    // Twice what it holds, so that frames are used again.
    for n in 0..64 {
        assert_eq!(gpu.read(page(n)).unwrap(), 0);
        gpu.write(page(n), n + 100).unwrap();
    }
    for n in 0..64 {
        assert_eq!(gpu.read(page(n)).unwrap(), n + 100);
    }
    bench.audit_with(&[&gpu]);
}

#[test]
fn what_does_not_fit_accelerator_and_host_goes_beyond_both() {
    // Accelerator 64, host 256 and compressed memory: together 1024 pages.
    let bench = bench(1024, 256, Unit::Page, vec![zip(2 << 20), hbm(1024)]);
    let npu = Sim::new("npu", 64, 1).attach(&bench);
    for n in 0..1024 {
        npu.write(page(n), n + 100).unwrap();
    }
    assert!(bench.engine.arena().peak() <= 256);
    for n in (0..1024).rev() {
        assert_eq!(npu.read(page(n)).unwrap(), n + 100);
    }
    bench.audit_with(&[&npu]);
    drop(npu);
    verify_all(&bench, 1024, |n| n + 100);
}

#[test]
fn running_out_everywhere_is_an_error_and_loses_nothing() {
    // Overcommitted: 400 pages on 256 of host RAM and 64 of the accelerator's.
    let bench = bench_with(400, 256, Unit::Page, vec![], true).unwrap();
    let npu = Sim::new("npu", 64, 1).attach(&bench);
    let mut written = 0;
    let error = loop {
        match npu.write(page(written), written + 100) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DeviceError::Full { .. }), "{error}");
    assert!(written >= 256, "{written}");
    bench.audit_with(&[&npu]);
    let again = npu.write(page(written), 1);
    assert!(matches!(again, Err(DeviceError::Full { .. })));
    // What is freed is room.
    bench.engine.free(PageRange::new(page(0), 100)).unwrap();
    npu.write(page(written), written + 100).unwrap();
    for n in 100..=written {
        assert_eq!(npu.read(page(n)).unwrap(), n + 100);
    }
}

#[test]
fn a_device_that_is_detached_gives_everything_back() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let sim = Sim::new("npu", 128, 1);
    let npu = sim.attach(&bench);
    for n in 0..100 {
        npu.write(page(n), n + 100).unwrap();
    }
    assert_eq!(npu.attachment.usage().pages, 100);
    npu.attachment.advise(9 << 12, 1, Advice::Pinned).unwrap();
    npu.attachment.detach().unwrap();
    assert_eq!(sim.accelerator.memory().free_pages(), 128);
    verify_all(&bench, 100, |n| n + 100);
    bench.audit();
    // Its place is free for another.
    for _ in 0..40 {
        let again = sim.attach(&bench);
        again.write(page(7), 7).unwrap();
    }
}

#[test]
fn a_device_that_cannot_be_detached_says_so_and_stays() {
    let bench = bench_with(400, 256, Unit::Page, vec![], true).unwrap();
    let npu = Sim::new("npu", 128, 1).attach(&bench);
    // The host is full, so there is no way back.
    for n in 0..128 {
        npu.write(page(n), n + 100).unwrap();
    }
    for n in 128..384 {
        assert_ne!(touch(&bench, n), Outcome::Waiting);
        bench.guest.write(page(n), n + 100);
    }
    let (attachment, error) = npu.attachment.detach().unwrap_err();
    assert!(matches!(error, DeviceError::Full { .. }), "{error}");
    let left = attachment.usage().pages;
    assert!(left > 0);
    bench.audit();
    bench.engine.set_budget(400).unwrap();
    attachment.detach().unwrap();
    verify_all(&bench, 384, |n| n + 100);
}

#[test]
fn more_hnodes_than_an_entry_can_name_are_refused() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let sim = Sim::new("npu", 16, 1);
    let users: Vec<User> = (0..14).map(|_| sim.attach(&bench)).collect();
    let refused = sim.accelerator.attach(&bench.engine);
    assert!(
        matches!(refused, Err(AttachError::TooMany(16))),
        "{refused:?}"
    );
    assert_eq!(sim.tables.open(), 14);
    drop(users);
    sim.accelerator.attach(&bench.engine).unwrap();
}

#[test]
fn one_accelerator_serves_several_address_spaces_within_their_caps() {
    let spaces: Vec<Bench> = (0..3)
        .map(|_| bench(512, 256, Unit::Page, vec![hbm(512)]))
        .collect();
    let sim = Sim::new("npu", 96, 1);
    let users: Vec<User> = spaces.iter().map(|space| sim.attach(space)).collect();
    for user in &users {
        user.attachment.set_cap(32 << 12).unwrap();
    }
    for n in 0..200 {
        for (who, user) in users.iter().enumerate() {
            user.write(page(n), 1000 * (who as u64 + 1) + n).unwrap();
            assert!(user.attachment.usage().pages <= 32);
        }
    }
    for (who, (space, user)) in spaces.iter().zip(&users).enumerate() {
        for n in 0..200 {
            assert_eq!(user.read(page(n)).unwrap(), 1000 * (who as u64 + 1) + n);
        }
        space.audit_with(&[user]);
    }
    let used = users[0].attachment.usage().used_bytes;
    users[0].attachment.set_cap(used).unwrap();
    let refused = users[0].attachment.set_cap(used - 1).unwrap_err();
    assert!(refused.to_string().contains("below that"), "{refused}");
}

#[test]
fn a_device_map_that_fails_after_the_cpu_unmap_loses_nothing() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    write_all(&bench, 64, |n| n + 100);
    let sim = Sim::new("gpu", 64, 16);
    let gpu = sim.attach(&bench);
    for after in 0..4 {
        sim.tables.map_fuse.fail_after(after);
        for n in [0, 17, 34, 51] {
            let outcome = gpu.read(page(n));
            assert!(
                matches!(outcome, Ok(word) if word == n + 100)
                    || matches!(outcome, Err(DeviceError::Map(_))),
                "{outcome:?}"
            );
            bench.audit_with(&[&gpu]);
        }
        sim.tables.map_fuse.never();
        verify_all(&bench, 64, |n| n + 100);
    }
}

#[test]
fn a_cpu_touch_of_a_page_that_was_pinned_on_a_device_gets_it() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let npu = Sim::new("npu", 16, 1).attach(&bench);
    npu.write(page(5), 55).unwrap();
    npu.attachment.advise(5 << 12, 1, Advice::Pinned).unwrap();
    // Eviction passes it by, whatever else comes.
    for n in 100..200 {
        npu.write(page(n), n).unwrap();
    }
    assert!(npu.pages().contains(&page(5)));
    touch(&bench, 5);
    assert_eq!(bench.guest.read(page(5)), Some(55));
    // Beneath the guest it is pinned still, and says so.
    assert!(matches!(npu.read(page(5)), Err(DeviceError::Pinned { page: p }) if p == page(5)));
    npu.attachment.advise(5 << 12, 1, Advice::Unpinned).unwrap();
    assert_eq!(npu.read(page(5)).unwrap(), 55);
}

#[test]
fn prefetch_is_rounded_outward_and_dont_need_inward() {
    let bench = bench(512, 256, Unit::Page, vec![hbm(512)]);
    let npu = Sim::new("npu", 64, 1).attach(&bench);
    write_all(&bench, 16, |n| n + 100);
    let advise = |address, len, advice| npu.attachment.advise(address, len, advice).unwrap().pages;
    assert_eq!(advise(0x1800, 0x1000, Advice::Prefetch), 2);
    let mut near = npu.pages();
    near.sort();
    assert_eq!(near, [page(1), page(2)]);
    assert_eq!(advise(0x1800, 0x1000, Advice::DontNeed), 0);
    assert_eq!(npu.read(page(1)).unwrap(), 101);
    assert_eq!(advise(0x1800, 0x1800, Advice::DontNeed), 1);
    assert_eq!(npu.read(page(2)).unwrap(), 0);
    assert_eq!(npu.read(page(3)).unwrap(), 103);
    let outside = npu.attachment.advise(511 << 12, 0x1001, Advice::Prefetch);
    assert!(matches!(outside, Err(DeviceError::NotRam { page: p }) if p == page(512)));
}

#[test]
fn pages_beneath_a_guest_that_uses_blocks_come_to_an_accelerator_one_by_one() {
    let bench = bench(8 * 512, 4 * 512, Unit::Block, vec![hbm(8 * 512)]);
    write_all(&bench, 8 * 512, |n| n + 100);
    let gpu = Sim::new("gpu", 128, 16).attach(&bench);
    for n in (0..8 * 512).step_by(100) {
        assert_eq!(gpu.read(page(n)).unwrap(), n + 100);
        gpu.write(page(n), n + 5000).unwrap();
    }
    bench.audit_with(&[&gpu]);
    verify_all(&bench, 8 * 512, |n| {
        if n.is_multiple_of(100) {
            n + 5000
        } else {
            n + 100
        }
    });
}

#[test]
fn an_accelerator_that_passes_over_a_guest_of_blocks_does_not_wait_for_ever_for_small_slots() {
    let bench = bench(6 * 512, 4 * 512, Unit::Block, vec![hbm(128), hbm(6 * 512)]);
    let npu = Sim::new("npu", 40, 1).attach(&bench);
    let gpu = Sim::new("gpu", 64, 16).attach(&bench);
    for n in 0..6 * 512 {
        npu.write(page(n), n + 100).unwrap();
        assert_eq!(gpu.read(page(n)).unwrap(), n + 100);
    }
    bench.audit_with(&[&npu, &gpu]);
    verify_all(&bench, 6 * 512, |n| n + 100);
}
