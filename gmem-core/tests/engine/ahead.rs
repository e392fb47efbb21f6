//! Accelerators' faults that bring what a command will touch next.

use crate::accelerator::Sim;
use crate::simulated::{bench, hbm};
use crate::{touch, write_all};
use gmem_core::accel::Access;
use gmem_core::page::{PageNo, Unit};

const PAGES: u64 = 512;

#[test]
fn what_a_command_will_touch_comes_with_what_it_has_touched() {
    let bench = bench(PAGES, 300, Unit::Page, vec![hbm(PAGES)]);
    write_all(&bench, PAGES, |page| page + 1);
    for (granule, page, ahead, expected) in [
        // A power of two of those that are left in the cluster.
        (1, 10, 64, 10..42),
        (1, 70, 3, 70..72),
        (1, 100, 1, 100..101),
        (16, 135, 20, 128..144),
        (16, 200, 1000, 192..256),
    ] {
        let sim = Sim::new("sim", 512, granule);
        for adaptive in [false, true] {
            let user = match adaptive {
                false => sim.attach(&bench),
                true => sim.attach_adaptive(&bench),
            };
            let fault = user
                .attachment
                .fault_ahead(PageNo(page), Access::Read, ahead);
            fault.unwrap();
            let mut mapped = sim.tables.pages(user.attachment.context());
            mapped.sort_unstable();
            let expected: Vec<PageNo> = expected.clone().map(PageNo).collect();
            assert_eq!(mapped, expected);
            let along = expected.len() as u64 - granule as u64;
            assert_eq!(user.attachment.traffic().ahead, along);
            for page in expected {
                assert_eq!(user.read(page).unwrap(), page.0 + 1);
            }
            bench.audit_with(&[&user]);
            user.attachment
                .detach()
                .map_err(|(_, error)| error)
                .unwrap();
        }
    }
}

#[test]
fn what_is_there_already_stays_and_the_rest_comes_by_itself() {
    let bench = bench(PAGES, 300, Unit::Page, vec![hbm(PAGES)]);
    write_all(&bench, PAGES, |page| page + 1);
    let user = Sim::new("npu", 256, 1).attach(&bench);
    user.write(PageNo(20), 77).unwrap();
    user.attachment
        .fault_ahead(PageNo(16), Access::Write, 16)
        .unwrap();
    assert_eq!(user.attachment.traffic().ahead, 0);
    assert_eq!(user.read(PageNo(20)).unwrap(), 77);
    for page in 16..32 {
        let expected = if page == 20 { 77 } else { page + 1 };
        assert_eq!(user.read(PageNo(page)).unwrap(), expected);
    }
    // More than the accelerator holds, page after page.
    for page in 0..PAGES {
        user.attachment
            .fault_ahead(PageNo(page), Access::Write, PAGES - page)
            .unwrap();
    }
    touch(&bench, 20);
    assert_eq!(bench.guest.read(PageNo(20)), Some(77));
    bench.audit_with(&[&user]);
}

#[test]
fn a_mapping_that_fails_in_the_middle_leaves_all_pages_where_they_were() {
    for adaptive in [false, true] {
        let bench = bench(PAGES, 300, Unit::Page, vec![hbm(PAGES)]);
        write_all(&bench, PAGES, |page| page + 1);
        let sim = Sim::new("npu", 256, 1);
        let user = match adaptive {
            false => sim.attach(&bench),
            true => sim.attach_adaptive(&bench),
        };
        for after in [0, 1, 7] {
            sim.tables.map_fuse.fail_after(after);
            let failed = user.attachment.fault_ahead(PageNo(64), Access::Read, 32);
            assert!(failed.is_err());
            assert_eq!(sim.tables.pages(user.attachment.context()), []);
            assert_eq!(user.attachment.usage().pages, 0);
            bench.audit_with(&[&user]);
        }
        sim.tables.map_fuse.never();
        user.attachment
            .fault_ahead(PageNo(64), Access::Read, 32)
            .unwrap();
        for page in 64..96 {
            assert_eq!(user.read(PageNo(page)).unwrap(), page + 1);
        }
    }
}
