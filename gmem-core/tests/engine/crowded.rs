//! Accelerators in memory that fits the host, with no tier to pass anything on to.

use crate::accelerator::Sim;
use crate::simulated::{bench, zip};
use crate::{touch, verify_all, write_all};
use gmem_core::page::{PageNo, Unit};
use std::thread;

/// More than the arena has slots for.
const PAGES: u64 = 4096;

#[test]
fn what_leaves_an_accelerator_goes_back_beneath_the_guest_where_no_tier_takes_it() {
    // The second has a tier that is full at once.
    for tiers in [vec![], vec![zip(64 << 10)]] {
        let bench = bench(PAGES, PAGES, Unit::Page, tiers);
        write_all(&bench, PAGES, |page| page + 1);
        let npu = Sim::new("npu", 1024, 1).attach(&bench);
        let gpu = Sim::new("gpu", 512, 16).attach(&bench);
        for n in 0..PAGES {
            npu.write(PageNo(n), n + 7).unwrap();
        }
        for n in (0..PAGES).rev() {
            assert_eq!(gpu.read(PageNo(n)).unwrap(), n + 7);
        }
        bench.audit_with(&[&npu, &gpu]);
        write_all(&bench, PAGES, |page| page + 2);
        touch(&bench, 5);
        npu.attachment.detach().map_err(|(_, error)| error).unwrap();
        gpu.attachment.detach().map_err(|(_, error)| error).unwrap();
        verify_all(&bench, PAGES, |page| page + 2);
    }
}

#[test]
fn what_an_accelerator_has_is_never_said_to_be_more_than_it_holds() {
    let bench = bench(PAGES, PAGES, Unit::Page, vec![zip(4 << 20)]);
    let gpu = Sim::new("gpu", 64, 16).attach(&bench);
    thread::scope(|scope| {
        for start in 0..4 {
            let gpu = &gpu;
            scope.spawn(move || {
                for n in 0..1000 {
                    let page = PageNo((start * 1024 + n * 16) % PAGES);
                    gpu.write(page, n).unwrap();
                }
            });
        }
    });
    let usage = gpu.attachment.usage();
    assert!(usage.peak_bytes <= usage.capacity_bytes, "{usage:?}");
    bench.audit_with(&[&gpu]);
}
