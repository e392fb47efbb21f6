//! On real userfaultfd: pages that lie apart leave and come back while threads write to them like vCPUs.

use super::super::arming::Armed;
use super::super::failure::Failure;
use super::super::plan::{Lower, Plan};
use super::*;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;
use gmem_devices::accel::HostMemory;
use std::thread;

const MEMORY: u64 = 64 << 20;

#[test]
fn no_write_is_lost_to_pages_that_lie_apart_and_leave_together() {
    let ram = Arc::new(GuestRam::new(MEMORY).unwrap());
    let plan = Plan {
        budget: 32 << 20,
        unit: Unit::Page,
        lower: vec![Lower::Zip { bytes: MEMORY }],
        overcommit: false,
        huge: false,
        prefetch: Prefetching::All,
    };
    let failure = Arc::new(Failure::default());
    let armed = Armed::new(&ram, 0, &plan, &[0], &failure).unwrap();
    // Two threads, in strides of 3 and 5 over the same pages, so that what leaves has pages beside it that stay.
    let adds = |stride: u64| {
        let pages = MEMORY / PAGE_SIZE as u64;
        for page in (0..3 * pages).step_by(stride as usize) {
            HostMemory::atomic_add(&*ram, page % pages * PAGE_SIZE as u64 + 8 * stride, 1);
        }
    };
    thread::scope(|scope| {
        for stride in [3, 5] {
            let adds = &adds;
            scope.spawn(move || adds(stride));
        }
    });
    let pages = MEMORY / PAGE_SIZE as u64;
    for page in 0..pages {
        for stride in [3u64, 5] {
            let mut word = [0; 8];
            let at = page * PAGE_SIZE as u64 + 8 * stride;
            ram.read(at, &mut word).unwrap();
            let laps = (0..3).filter(|lap| (page + lap * pages).is_multiple_of(stride));
            assert_eq!(u64::from_le_bytes(word), laps.count() as u64, "page {page}");
        }
    }
    let audit = armed.engine.audit(&armed.engine.quiesce());
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert!(armed.engine.arena().peak() <= (32 << 20) / PAGE_SIZE as u64);
    assert_eq!(failure.get(), None);
}
