//! On real KVM: what a guest uses is seen, and what it does not use is not. Wants root.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use gmem_core::page::{BLOCK_CLUSTERS, Unit};
use gmem_core::policy::Hotness;
use gmem_core::policy::Prefetching;
use gmem_core::policy::hotness::Masks;
use gmem_vmm::boot::bundled;
use gmem_vmm::devices::DeviceConfig;
use gmem_vmm::machine::{Config, Machine, Payload, Running};
use gmem_vmm::memory::page_use::PageUse;
use gmem_vmm::memory::plan::{Lower, Plan};
use support::gmem::require_kvm;

const MIB: u64 = 1 << 20;
/// Blocks that the guest works in: what it works with, all of it there.
const BLOCKS: std::ops::Range<u64> = 8..16;
const PAGES: u32 = 8 * 512;
const ALL: Masks = [u64::MAX; BLOCK_CLUSTERS];
const LIMIT: Duration = Duration::from_secs(60);

/// A guest that has written 32 MiB of memory and then reads and writes some pages in a hundred of it, scattered, for ever.
/// All of it fits, but is armed.
fn guest_with_hot_pages() -> Running {
    require_kvm();
    let config = Config {
        memory: 64 * MIB,
        cpus: 1,
        plan: Some(Plan {
            budget: 60 * MIB,
            unit: Unit::Page,
            lower: vec![Lower::Zip { bytes: 64 * MIB }],
            overcommit: false,
            huge: false,
            prefetch: Prefetching::All,
        }),
        payload: Payload::Bundled {
            image: bundled::IMAGE,
            workload: "hotscan hot=2 hot_ops=100 working_set=32M ops=100000000000".into(),
            extra: String::new(),
        },
        devices: DeviceConfig::default(),
    };
    let machine = Machine::build(&config, Box::new(std::io::sink())).unwrap();
    machine.start().unwrap()
}

/// Which pages are accessed within a moment.
fn accessed(page_use: &PageUse) -> Vec<Masks> {
    assert!(BLOCKS.into_iter().all(|block| page_use.watch(block)));
    thread::sleep(Duration::from_millis(300));
    let accessed = |block| page_use.accessed(block, &ALL).unwrap();
    BLOCKS.map(accessed).collect()
}

fn count(pages: &[Masks]) -> u32 {
    pages.iter().flatten().map(|mask| mask.count_ones()).sum()
}

/// Pages of both.
fn common(some: &[Masks], others: &[Masks]) -> u32 {
    let pairs = some.iter().flatten().zip(others.iter().flatten());
    pairs.map(|(some, other)| (some & other).count_ones()).sum()
}

/// Waits until the guest uses its hot pages only.
fn wait_until_warm(page_use: &PageUse) -> Vec<Masks> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let pages = accessed(page_use);
        let found = count(&pages);
        if found > 0 && found < PAGES / 3 {
            return pages;
        }
        assert!(Instant::now() < deadline, "{found} of {PAGES} pages");
    }
}

#[test]
fn pages_that_a_guest_uses_are_told_from_those_it_does_not() {
    let running = guest_with_hot_pages();
    let page_use = running.memory().page_use().unwrap().expect("armed");
    let hot = wait_until_warm(&page_use);
    // Two pages in a hundred are hot; who shares their grain is taken for hot, too.
    let (least, most) = (PAGES / 100, PAGES / 25 * page_use.grain() as u32);
    assert!((least..=most).contains(&count(&hot)), "{}", count(&hot));
    let again = accessed(&page_use);
    let both = common(&hot, &again);
    assert!(both * 100 >= count(&hot) * 95, "{both} of {}", count(&hot));
    assert!(
        both * 100 >= count(&again) * 95,
        "{both} of {}",
        count(&again)
    );
    running.vcpus().pause(LIMIT).unwrap();
    assert_eq!(count(&accessed(&page_use)), 0, "nobody runs");
    running.vcpus().resume();
    let resumed = accessed(&page_use);
    assert!(common(&hot, &resumed) * 100 >= count(&hot) * 95);
    running.finish(None);
}
