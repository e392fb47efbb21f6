//! Pages that are copied in: a new frame for each, which the caller has counted.

use gmem_core::mmu::Obstacle;
use gmem_core::page::PAGE_SIZE;
use gmem_vmm::memory::reserve::Backing;

use crate::support::{Access, Rig, get, kib, put, reading, stopped, whole};

#[test]
fn a_copied_page_takes_one_frame_is_writable_and_wakes_nobody() {
    let rig = Rig::new(1, Backing::Small);
    let access = reading(rig.page(0));
    rig.event();
    let mut bytes = vec![0; 2 * PAGE_SIZE];
    bytes[..8].copy_from_slice(&7u64.to_ne_bytes());
    assert_eq!(rig.uffd.copy_pages(rig.page(0), &bytes), whole(2));
    access.assert_waits();
    assert_eq!(kib(&rig.guest, "Anonymous"), 8);
    assert_eq!(kib(&rig.arena, "Anonymous"), 0);

    rig.uffd.wake(rig.page(0), PAGE_SIZE).expect("wake");
    assert_eq!(access.result(), 7);
    let page = rig.page(1);
    Access::start(move || put(page, 5)).result();
    assert!(!rig.has_event(), "a copied page was protected");
    assert_eq!((get(page), kib(&rig.guest, "Anonymous")), (5, 8));
    // It travels like any other.
    assert_eq!(rig.evict(0, 0, 2), whole(2));
}

#[test]
fn a_copy_stops_at_a_page_that_is_there_and_leaves_it_as_it_is() {
    let rig = Rig::new(1, Backing::Small);
    put(rig.slot(0), 9);
    assert_eq!(rig.bring(0, 1, 1), whole(1));
    let bytes = vec![1; 3 * PAGE_SIZE];
    let copied = rig.uffd.copy_pages(rig.page(0), &bytes);
    assert_eq!(copied, stopped(1, Obstacle::Present));
    assert_eq!(get(rig.page(1)), 9);
    assert_eq!(kib(&rig.guest, "Anonymous"), 8);
}
