//! Rule: MOVE forgets write protection; a page is clean only if its copy was taken under protection.

use std::sync::atomic::{AtomicU64, Ordering};

use gmem_vmm::memory::reserve::Backing;
use gmem_vmm::memory::userfault::Features;

use gmem_core::page::PAGE_SIZE;

use crate::support::{Access, Rig, get, put, whole};

fn is_clean(rig: &Rig, page: usize) -> bool {
    let runs = rig.runs(rig.page(page), 1);
    assert_eq!(runs.len(), 1, "the page is there");
    !runs[0].written
}

fn protect(rig: &Rig, page: usize, on: bool) {
    rig.uffd
        .write_protect(rig.page(page), PAGE_SIZE, on)
        .expect("write-protect");
}

#[test]
fn a_write_to_a_protected_page_waits_until_it_is_released() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 1);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    protect(rig, 0, true);
    assert!(is_clean(rig, 0));
    let page = rig.page(0);
    let writer = Access::start(move || put(page, 2));
    let event = rig.event();
    assert_eq!(event.address, page);
    assert!(event.write && event.write_protected);
    assert_eq!(get(page), 1);
    protect(rig, 0, false);
    writer.result();
    assert_eq!(get(page), 2);
}

#[test]
fn a_move_forgets_write_protection() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 1);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    protect(rig, 0, true);
    assert!(is_clean(rig, 0));
    assert_eq!(rig.evict(0, 0, 1), whole(1));
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    assert!(!is_clean(rig, 0), "what was moved in counts as written");
    let page = rig.page(0);
    Access::start(move || put(page, 2)).result();
    assert!(!rig.has_event());
}

#[test]
fn a_copy_taken_before_protection_can_differ_from_a_page_that_reads_as_clean() {
    let rig = Rig::with(1, Backing::Small, Features::WP_ASYNC);
    put(rig.slot(0), 1);
    let kept = get(rig.slot(0));
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    put(rig.page(0), 2); // the guest is faster
    protect(rig, 0, true);
    assert!(is_clean(rig, 0));
    assert_ne!(
        get(rig.page(0)),
        kept,
        "dropping the page would lose an update"
    );
}

#[test]
fn a_copy_taken_under_protection_equals_every_page_that_reads_as_clean() {
    let rig = Rig::with(1, Backing::Small, Features::WP_ASYNC);
    put(rig.slot(0), 1);
    assert_eq!(rig.bring(0, 0, 1), whole(1));
    put(rig.page(0), 2); // before protection: the copy has it
    protect(rig, 0, true);
    let kept = get(rig.page(0));
    assert!(is_clean(rig, 0));
    assert_eq!(get(rig.page(0)), kept);
    put(rig.page(0), 3); // after it: the page is dirty
    assert!(!is_clean(rig, 0));
}

#[test]
fn protect_then_copy_loses_no_update_of_a_racing_writer() {
    static ROUND: AtomicU64 = AtomicU64::new(0);
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    const ROUNDS: u64 = 500;
    let rig = Rig::with(1, Backing::Small, Features::WP_ASYNC);
    put(rig.slot(0), 0);
    let page = rig.page(0);
    let writer = Access::start(move || {
        for round in 1..=ROUNDS {
            while ROUND.load(Ordering::Acquire) < round {
                std::thread::yield_now();
            }
            put(page, round);
            WRITTEN.store(round, Ordering::Release);
        }
    });
    let mut clean = 0;
    for round in 1..=ROUNDS {
        ROUND.store(round, Ordering::Release);
        if round % 3 == 0 {
            std::thread::yield_now();
        }
        assert_eq!(rig.bring(0, 0, 1), whole(1));
        if round % 2 == 0 {
            std::thread::yield_now();
        }
        protect(rig, 0, true);
        let kept = get(page);
        crate::support::until("the writer writes", || {
            WRITTEN.load(Ordering::Acquire) == round
        });
        if is_clean(rig, 0) {
            clean += 1;
            assert_eq!(kept, round, "clean, yet the copy lacks the write");
        }
        assert_eq!(get(page), round);
        assert_eq!(rig.evict(0, 0, 1), whole(1));
        while rig.has_event() {
            rig.event();
        }
    }
    writer.result();
    println!("{clean} of {ROUNDS} rounds ended clean");
}
