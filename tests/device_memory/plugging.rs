//! Memory that is plugged in and out.

use std::sync::Arc;

use gmem_core::engine::ConfigError;
use gmem_core::page::Unit;
use gmem_vmm::memory::managed::ManagedMemory;
use gmem_vmm::memory::plugging::PlugError;
use gmem_vmm::memory::ram::{GuestRam, RamRegion};

use crate::support::*;

/// Where memory may be plugged in.
const REGION: RamRegion = RamRegion {
    start: 1024 * MIB,
    size: 64 * MIB,
};

/// 64 MiB of RAM, and as much that may be plugged in.
fn memory(budget: u64, hbm: u64, unit: Unit) -> ManagedMemory {
    let ram = GuestRam::with_pluggable(64 * MIB, Some(REGION)).unwrap();
    let memory = ManagedMemory::new(Arc::new(ram), Some(plan(budget, hbm, unit)));
    memory.prepare().unwrap();
    memory
}

fn armed(budget: u64, hbm: u64, unit: Unit) -> ManagedMemory {
    let memory = memory(budget, hbm, unit);
    memory.arm_if_needed(&cpus()).unwrap();
    assert!(memory.engine().is_some());
    memory
}

#[test]
fn as_much_is_plugged_in_as_the_tiers_hold() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        let memory = armed(32 * MIB, 64 * MIB, unit);
        let at = |n: u64| REGION.start + n * 10 * MIB;
        for n in 0..2 {
            memory.plug(at(n), 10 * MIB).unwrap();
        }
        let full = |error| matches!(error, PlugError::Sizes(ConfigError::Capacity { .. }));
        assert!(full(memory.plug(at(2), 14 * MIB).unwrap_err()));
        memory.unplug(at(0), 10 * MIB).unwrap();
        memory.plug(at(2), 14 * MIB).unwrap();
        assert_eq!(memory.plugged_bytes(), 24 * MIB);
        let snapshot = memory.snapshot().unwrap();
        assert_eq!(snapshot.memory_bytes, 88 * MIB);
        // A budget that does not do for what is plugged in is refused by the engine.
        let engine = memory.engine().unwrap();
        assert!(engine.set_budget(16 * MIB / PAGE).is_err());
        memory.unplug(at(1), 24 * MIB).unwrap();
        engine.set_budget(16 * MIB / PAGE).unwrap();
        audit(&memory);
    }
}

#[test]
fn what_is_plugged_in_is_memory_and_what_is_unplugged_holds_nothing() {
    let _alone = alone();
    for unit in [Unit::Page, Unit::Block] {
        let memory = armed(16 * MIB, 128 * MIB, unit);
        memory.plug(REGION.start, REGION.size).unwrap();
        write(&memory, 0, 64 * MIB);
        write(&memory, REGION.start, REGION.size);
        let pages = |region: RamRegion| region.start / PAGE..region.end() / PAGE;
        for page in pages(REGION).rev().chain(0..64 * MIB / PAGE) {
            assert_eq!(read(&memory, page), word(page));
        }
        let used = || {
            let snapshot = memory.snapshot().unwrap();
            snapshot
                .tiers
                .iter()
                .map(|tier| tier.used_bytes)
                .sum::<u64>()
        };
        let before = used();
        let part = RamRegion {
            start: REGION.start + 20 * MIB,
            size: 40 * MIB,
        };
        memory.unplug(part.start, part.size).unwrap();
        // But for frames that are kept to be used again.
        assert!(before - used() >= 36 * MIB, "{before} {}", used());
        memory.plug(part.start, part.size).unwrap();
        for page in pages(REGION) {
            let expected = if pages(part).contains(&page) {
                0
            } else {
                word(page)
            };
            assert_eq!(read(&memory, page), expected);
        }
        audit(&memory);
    }
}

#[test]
fn plain_memory_is_plugged_in_too_and_counted_when_it_is_armed() {
    let _alone = alone();
    let plain = memory(128 * MIB, 0, Unit::Page);
    plain.plug(REGION.start, REGION.size).unwrap();
    write(&plain, REGION.start, REGION.size);
    let before = rss_anon();
    plain.unplug(REGION.start, 60 * MIB).unwrap();
    assert!(before - rss_anon() >= 56 * MIB);
    assert!(plain.engine().is_none());

    // Not armed before it is asked to be, and then it does not fit.
    let large = memory(32 * MIB, 64 * MIB, Unit::Page);
    large.plug(REGION.start, 40 * MIB).unwrap();
    assert!(large.arm_if_needed(&cpus()).is_err());
    large.unplug(REGION.start, 20 * MIB).unwrap();
    write(&large, REGION.start + 20 * MIB, 20 * MIB);
    large.arm_if_needed(&cpus()).unwrap();
    let page = (REGION.start + 20 * MIB) / PAGE;
    assert_eq!(read(&large, page), word(page));
    assert_eq!(large.snapshot().unwrap().memory_bytes, 84 * MIB);
    audit(&large);
}

#[test]
fn who_uses_what_is_not_plugged_in_stays_within_the_budget_and_leaves_nothing_behind() {
    let _alone = alone();
    let memory = armed(16 * MIB, 160 * MIB, Unit::Page);
    write(&memory, 0, 64 * MIB);
    write(&memory, REGION.start, REGION.size);
    let peak = memory.snapshot().unwrap().tiers[0].peak_bytes;
    assert!(peak <= 16 * MIB, "{peak}");
    memory.plug(REGION.start, REGION.size).unwrap();
    for page in REGION.start / PAGE..REGION.end() / PAGE {
        assert_eq!(read(&memory, page), 0);
    }
    audit(&memory);
}

#[test]
fn what_cannot_be_plugged_is_refused_with_the_address_and_nothing_changes() {
    let _alone = alone();
    let memory = armed(16 * MIB, 160 * MIB, Unit::Page);
    memory.plug(REGION.start + 4 * MIB, 2 * MIB).unwrap();
    for (gpa, len) in [
        (0, 2 * MIB),
        (REGION.start + PAGE, 2 * MIB),
        (REGION.start, PAGE),
        (REGION.end(), 2 * MIB),
        (REGION.end() - 2 * MIB, 4 * MIB),
        (u64::MAX - 2 * MIB + 1, 2 * MIB),
        (REGION.start, u64::MAX - 2 * MIB + 1),
    ] {
        for refused in [memory.plug(gpa, len), memory.unplug(gpa, len)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, PlugError::Range { .. }), "{error}");
            assert!(error.to_string().contains(&format!("{gpa:#x}")), "{error}");
        }
    }
    let again = memory.plug(REGION.start, 8 * MIB).unwrap_err().to_string();
    let address = format!("{:#x}", REGION.start + 4 * MIB);
    assert!(
        again.contains(&address) && again.contains("plugged in already"),
        "{again}"
    );
    let never = memory.unplug(REGION.start + 4 * MIB, 4 * MIB).unwrap_err();
    assert!(never.to_string().contains("unplugged already"), "{never}");
    assert_eq!(memory.plugged_bytes(), 2 * MIB);
}
