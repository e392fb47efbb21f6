//! Memory that the guest gives back.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::engine::Destination;
use gmem_core::page::{PageNo, PageRange, Unit};
use gmem_core::stats::Site;
use gmem_devices::virtio::DeviceMemory;
use gmem_vmm::memory::managed::ManagedMemory;
use gmem_vmm::memory::pagemap::Pagemap;
use gmem_vmm::memory::ram::GuestRam;

use crate::support::*;

/// What is present beneath the guest: first address and length.
fn present(memory: &ManagedMemory) -> Vec<(u64, u64)> {
    let (ram, pagemap) = (memory.ram(), Pagemap::open().unwrap());
    let runs = pagemap.scan(ram.base(), ram.size() as usize).unwrap();
    let in_guest = |address: usize| (address - ram.base()) as u64;
    runs.iter()
        .map(|run| (in_guest(run.start), run.len as u64))
        .collect()
}

#[test]
fn what_a_guest_at_its_budget_gives_back_leaves_the_process() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        let memory = memory(512 * MIB, 256 * MIB, 512 * MIB, unit);
        write(&memory, 0, 512 * MIB);
        let engine = memory.engine().unwrap();
        // Nothing else moves while the figures are taken.
        engine.pause_background();
        let used = || memory.snapshot().unwrap().tiers[0].used_bytes;
        let before = (rss_anon(), used());
        let mut left = 200 * MIB;
        let start = Instant::now();
        let mut freed = Vec::new();
        for (gpa, len) in present(&memory) {
            let len = len.min(left);
            memory.free(gpa, len).unwrap();
            freed.push((gpa, len));
            left -= len;
        }
        let took = start.elapsed();
        let after = (rss_anon(), used());
        println!("{unit:?}: 200 MiB in {took:?}, RssAnon {before:?} to {after:?}");
        assert_eq!(left, 0, "there is so much");
        assert!(before.1 - after.1 >= 180 * MIB, "{before:?} {after:?}");
        assert!(before.0 - after.0 >= 180 * MIB, "{before:?} {after:?}");
        assert!(took < Duration::from_secs(5));
        assert_eq!(memory.snapshot().unwrap().freed_pages, 200 * MIB / PAGE);
        // Others have it at once: nobody is evicted for them.
        let evicted = || engine.stats().flow(Site::Host, Site::Staged);
        let before = evicted();
        let pages: Vec<u64> = freed
            .iter()
            .flat_map(|(gpa, len)| (*gpa..gpa + len).step_by(PAGE as usize))
            .collect();
        // In an order that nobody foresees, so that nothing else comes along.
        for n in 0..180 * MIB as usize / PAGE as usize {
            write(&memory, pages[n * 7919 % pages.len()], PAGE);
        }
        assert_eq!(evicted(), before);
        engine.resume_background();
        audit(&memory);
    }
}

#[test]
fn what_is_given_back_reads_as_zeros_wherever_it_was_and_the_rest_is_as_it_was() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        for to in [
            Destination::Guest,
            Destination::Staged,
            Destination::Tier(1),
        ] {
            let memory = memory(64 * MIB, 48 * MIB, 64 * MIB, unit);
            write(&memory, 0, 16 * MIB);
            let engine = memory.engine().unwrap();
            let all = PageRange::new(PageNo(0), 16 * MIB / PAGE);
            engine.migrate(all, to).unwrap();
            // Whole blocks, and parts of two.
            memory.free(4 * MIB - 5 * PAGE, 4 * MIB + 9 * PAGE).unwrap();
            let freed = 1024 - 5..2048 + 4;
            for page in 0..16 * MIB / PAGE {
                let expected = if freed.contains(&page) { 0 } else { word(page) };
                assert_eq!(read(&memory, page), expected, "{unit:?} {to:?} {page}");
            }
            audit(&memory);
        }
    }
}

#[test]
fn plain_memory_is_given_back_too() {
    let _alone = alone();
    let ram = Arc::new(GuestRam::new(64 * MIB).unwrap());
    let memory = ManagedMemory::new(ram, None);
    write(&memory, 0, 64 * MIB);
    let before = rss_anon();
    memory.free(8 * MIB, 32 * MIB).unwrap();
    assert!(before - rss_anon() >= 30 * MIB);
    assert_eq!(read(&memory, 8 * MIB / PAGE), 0);
    assert_eq!(read(&memory, 40 * MIB / PAGE), word(40 * MIB / PAGE));
}

#[test]
fn what_is_not_whole_pages_of_ram_is_refused_with_the_address() {
    let _alone = alone();
    let memory = memory(64 * MIB, 16 * MIB, 64 * MIB, Unit::Page);
    for (gpa, len) in [
        (64 * MIB - PAGE, 2 * PAGE),
        (64 * MIB, PAGE),
        (1 << 63, PAGE),
        (PAGE, u64::MAX - PAGE + 1),
        (1, PAGE),
        (PAGE, 100),
    ] {
        let error = DeviceMemory::free(&memory, gpa, len).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("{gpa:#x}")), "{error}");
    }
    assert!(DeviceMemory::free(&memory, 0, 0).is_ok());
}

#[test]
fn what_is_pinned_stays_and_is_called_busy() {
    let _alone = alone();
    let memory = memory(64 * MIB, 16 * MIB, 64 * MIB, Unit::Page);
    write(&memory, 0, MIB);
    let engine = memory.engine().unwrap();
    engine
        .set_pinned(PageRange::new(PageNo(7), 1), true)
        .unwrap();
    let error = DeviceMemory::free(&memory, 0, MIB).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
    assert_eq!((read(&memory, 7), read(&memory, 8)), (word(7), 0));
}

/// A device gives back and uses again its pages, the guest's other pages turn over, and a third thread evicts
/// whatever it can: after every free zeros are read, and nobody's bytes are lost.
#[test]
fn pages_are_given_back_while_they_travel() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        let memory = memory(128 * MIB, 32 * MIB, 128 * MIB, unit);
        let engine = memory.engine().unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let memory = &memory;
            let stop = &stop;
            let others = scope.spawn(move || {
                let pages = 64 * MIB / PAGE..128 * MIB / PAGE;
                write(memory, pages.start * PAGE, 64 * MIB);
                while !stop.load(Ordering::Relaxed) {
                    for page in pages.clone() {
                        assert_eq!(read(memory, page), word(page));
                    }
                }
            });
            let evictor = scope.spawn(move || {
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    let range = PageRange::new(PageNo(at % (64 * MIB / PAGE)), 512);
                    let to = [Destination::Staged, Destination::Tier(1)];
                    let _ = engine.migrate(range, to[(at / 512 % 2) as usize]);
                    at += 512;
                }
            });
            let end = Instant::now() + Duration::from_secs(3);
            let mut rounds = 0u64;
            while Instant::now() < end {
                let page = rounds * 1237 % (60 * MIB / PAGE);
                let pages = [1, 64, 512, 700][(rounds % 4) as usize];
                let page = if rounds % 4 == 2 {
                    page / 512 * 512
                } else {
                    page
                };
                write(memory, page * PAGE, pages * PAGE);
                memory.free(page * PAGE, pages * PAGE).unwrap();
                for page in page..page + pages {
                    assert_eq!(read(memory, page), 0, "{unit:?} {page}");
                }
                rounds += 1;
            }
            stop.store(true, Ordering::Relaxed);
            others.join().unwrap();
            evictor.join().unwrap();
            let flow = |site| engine.stats().flow(site, Site::Zero);
            println!(
                "{unit:?}: {rounds} rounds, freed {} beneath the guest, {} staged, {} in HBM",
                flow(Site::Host),
                flow(Site::Staged),
                flow(Site::Tier(1))
            );
            assert!(rounds > 20);
        });
        audit(&memory);
    }
}
