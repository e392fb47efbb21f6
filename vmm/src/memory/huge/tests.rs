//! On real userfaultfd: blocks are promoted, written to meanwhile, evicted in part, brought back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::arming::Armed;
use super::super::failure::Failure;
use super::super::pagemap::Pagemap;
use super::super::plan::{Lower, Plan};
use super::*;
use gmem_core::engine::Destination;
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE, PageRange, Unit};
use gmem_devices::accel::HostMemory;

const PAGE: u64 = PAGE_SIZE as u64;
const BLOCK: u64 = BLOCK_SIZE as u64;
const LIMIT: Duration = Duration::from_secs(60);

/// Armed memory of 16 MiB with room for 12, and huge pages if the host has them.
fn armed() -> (Arc<GuestRam>, Armed, Arc<Failure>) {
    let ram = Arc::new(GuestRam::new(16 << 20).unwrap());
    let plan = Plan {
        budget: 12 << 20,
        unit: Unit::Page,
        lower: vec![Lower::Hbm {
            bytes: 32 << 20,
            latency_us: 0.0,
            gbps: None,
        }],
        overcommit: false,
        prefetch: gmem_core::policy::Prefetching::All,
        huge: true,
    };
    let failure = Arc::new(Failure::default());
    let armed = Armed::new(&ram, 0, &plan, &[0], &failure).unwrap();
    (ram, armed, failure)
}

/// Adds to the first word of a page, as a vCPU does.
fn add(ram: &GuestRam, page: u64, value: u64) {
    HostMemory::atomic_add(ram, page * PAGE, value);
}

fn write(ram: &GuestRam, page: u64, value: u64) {
    GuestRam::write(ram, page * PAGE, &value.to_le_bytes()).unwrap();
}

fn read(ram: &GuestRam, page: u64) -> u64 {
    let mut word = [0; 8];
    GuestRam::read(ram, page * PAGE, &mut word).unwrap();
    u64::from_le_bytes(word)
}

fn huge_bytes(ram: &GuestRam) -> usize {
    let runs = Pagemap::open().unwrap().scan(ram.base(), 16 << 20);
    let runs = runs.unwrap();
    runs.iter().filter(|run| run.huge).map(|run| run.len).sum()
}

/// Waits for so many promotions; false on a host without huge pages, or if none of its frames is huge.
fn promoted(armed: &Armed, count: u64) -> bool {
    let deadline = Instant::now() + LIMIT;
    while armed.engine.snapshot().promotions < count {
        if !is_offered() {
            println!("this host offers no huge pages: nothing is promoted");
            return false;
        }
        assert!(Instant::now() < deadline, "{:?}", armed.engine.snapshot());
        thread::sleep(Duration::from_millis(20));
    }
    true
}

#[test]
fn an_administrator_who_says_never_is_obeyed() {
    assert!(allows("always [madvise] never\n"));
    assert!(allows("[always] madvise never\n"));
    assert!(!allows("always madvise [never]\n"));
}

#[test]
fn a_block_that_is_not_full_is_not_made_huge_and_stays_as_it_is() {
    let (ram, _armed, failure) = armed();
    write(&ram, 512, 7);
    assert_ne!(promote(&ram, PageNo(512)), Promoted::Done);
    assert_eq!(read(&ram, 512), 7);
    assert_eq!(failure.get(), None);
}

#[test]
fn full_blocks_become_huge_while_they_are_written_and_lose_nothing() {
    let (ram, armed, failure) = armed();
    let pages = 4 * BLOCK / PAGE;
    let done = AtomicBool::new(false);
    let added = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                for page in 0..pages {
                    add(&ram, page, 1);
                }
                rounds += 1;
            }
            rounds
        });
        if promoted(&armed, 4) {
            assert!(huge_bytes(&ram) >= 2 * BLOCK_SIZE, "{}", huge_bytes(&ram));
        }
        // A part leaves, and the whole of another block: both while they are written.
        for _ in 0..20 {
            let part = PageRange::new(PageNo(100), 30);
            let whole = PageRange::new(PageNo(512), 512);
            armed.engine.migrate(part, Destination::Tier(1)).unwrap();
            armed.engine.migrate(whole, Destination::Staged).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    for page in 0..pages {
        let found = read(&ram, page);
        assert_eq!(found, added, "page {page}");
    }
    let audit = armed.engine.audit(&armed.engine.quiesce());
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert!(armed.engine.arena().peak() <= (12 << 20) / PAGE);
    assert_eq!(failure.get(), None);
}

#[test]
fn a_promoted_block_leaves_and_returns_as_one_frame_and_splits_when_a_part_leaves() {
    let (ram, armed, _failure) = armed();
    let pages = BLOCK / PAGE;
    let fill = |page: u64| page * 3 + 1;
    (0..pages).for_each(|page| write(&ram, page, fill(page)));
    let verify = || {
        let wrong = (0..pages).find(|&page| read(&ram, page) != fill(page));
        assert_eq!(wrong, None);
    };
    if !promoted(&armed, 1) {
        return;
    }
    assert_eq!(huge_bytes(&ram), BLOCK_SIZE);
    let block = PageRange::new(PageNo(0), pages);
    let moved = armed.engine.migrate(block, Destination::Staged).unwrap();
    assert_eq!((moved.moved, huge_bytes(&ram)), (pages, 0));
    verify();
    assert_eq!(huge_bytes(&ram), BLOCK_SIZE, "it came back as one frame");
    armed.engine.free(PageRange::new(PageNo(70), 5)).unwrap();
    assert_eq!(armed.engine.snapshot().splits, 1);
    assert_eq!(huge_bytes(&ram), 0);
    for page in 70..75 {
        assert_eq!(read(&ram, page), 0, "page {page}");
        write(&ram, page, fill(page));
    }
    verify();
}

#[test]
fn who_wrote_while_a_block_became_huge_does_not_split_it_by_being_told_late() {
    let (ram, armed, failure) = armed();
    let pages = BLOCK / PAGE;
    (0..pages).for_each(|page| write(&ram, page, page + 1));
    if !promoted(&armed, 1) {
        return;
    }
    // The report of a write to a page that was protected, read after that has ended.
    armed.engine.write_fault(PageNo(70)).unwrap();
    assert_eq!(huge_bytes(&ram), BLOCK_SIZE);
    assert_eq!(failure.get(), None);
}

#[test]
fn a_frame_that_a_block_has_left_is_the_next_one_s_while_that_is_written() {
    let (ram, armed, failure) = armed();
    let pages = BLOCK / PAGE;
    (0..pages).for_each(|page| write(&ram, page, page + 1));
    if !promoted(&armed, 1) {
        return;
    }
    let first = PageRange::new(PageNo(0), pages);
    armed.engine.migrate(first, Destination::Tier(1)).unwrap();
    assert!(armed.engine.arena().has_free_block());
    let done = AtomicBool::new(false);
    let added = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                (pages..2 * pages).for_each(|page| add(&ram, page, 1));
                rounds += 1;
            }
            rounds
        });
        promoted(&armed, 2);
        assert!(!armed.engine.arena().has_free_block(), "it has been used");
        done.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert_eq!(huge_bytes(&ram), BLOCK_SIZE);
    for page in 0..pages {
        assert_eq!(read(&ram, page), page + 1, "page {page}");
        assert_eq!(read(&ram, pages + page), added, "page {}", pages + page);
    }
    let audit = armed.engine.audit(&armed.engine.quiesce());
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert_eq!(failure.get(), None);
}
