//! Rules that histories do not show: words of errors, room for tables, notes of accesses.

use gmem_core::page::{BLOCK_PAGES, PageNo};

use super::{range, space};
use crate::accel::mmu::{Access, Aperture, Format, Gpu, Npu, PageTable, Region, Rights, Target};

const BLOCK: u64 = BLOCK_PAGES as u64;

#[test]
fn formats_have_the_sizes_of_their_micro_architectures() {
    let sizes = |levels: &[crate::accel::mmu::Level]| -> Vec<u64> {
        levels
            .iter()
            .filter(|level| level.maps)
            .map(|level| level.pages() * 4)
            .collect()
    };
    assert_eq!((sizes(Npu::LEVELS), Npu::end()), (vec![2048, 4], 1 << 36));
    assert_eq!((sizes(Gpu::LEVELS), Gpu::end()), (vec![2048, 64], 1 << 37));
    for levels in [Npu::LEVELS, Gpu::LEVELS] {
        for pair in levels.windows(2) {
            assert_eq!(pair[0].pages(), pair[1].pages() * pair[1].entries());
        }
    }
}

#[test]
fn what_cannot_be_mapped_says_why() {
    let (table, _, _) = space::<Gpu>(5);
    let refused = |pages, target, rights| {
        table
            .map(range(pages), target, rights)
            .unwrap_err()
            .to_string()
    };
    let here = Target::local(0);
    assert_eq!(
        refused(0..1, here, Rights::Read),
        "an entry of 4 KiB: this format has entries of [2048, 64] KiB"
    );
    assert_eq!(
        refused(8..24, here, Rights::Read),
        "16 pages from page 0x8 (address 0x8000) to Some(Target { aperture: Local, address: 0 }): \
         not in multiples of 16 pages"
    );
    assert_eq!(
        refused(Gpu::end()..Gpu::end() + 16, here, Rights::Read),
        "16 pages from page 0x2000000000 (address 0x2000000000000): the format ends at page 0x2000000000"
    );
    let far = Target {
        aperture: Aperture::Peer(8),
        address: 0,
    };
    assert!(refused(0..16, far, Rights::Read).starts_with("gpu entries cannot say Read of"));
    table.map(range(0..16), here, Rights::Read).unwrap();
    assert_eq!(
        refused(0..BLOCK, here, Rights::Read),
        "512 pages from page 0x0 (address 0x0): some are mapped already"
    );
    let elsewhere = 1 << 35;
    assert_eq!(
        refused(elsewhere..elsewhere + 16, here, Rights::Read),
        "4 more tables wanted, 0 of 5 are free"
    );
    assert_eq!(table.tables_used(), 5);
}

#[test]
fn a_region_that_is_not_in_the_memory_is_refused() {
    let (_, memory, _) = space::<Npu>(2);
    let error = PageTable::<Npu, _>::new(memory, Region::new(1 << 20..1 << 21)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no word at 0x100000: device memory has 0x2000 bytes, in words of 8"
    );
}

#[test]
fn emptied_tables_are_free_when_the_invalidation_is_over() {
    let (table, _, region) = space::<Npu>(4);
    table
        .map(range(0..1), Target::local(0), Rights::Read)
        .unwrap();
    let retired = table.unmap(range(0..1), |_| ()).unwrap();
    assert_eq!((table.tables_used(), region.free_tables()), (1, 0));
    drop(retired);
    assert_eq!(region.free_tables(), 3);
}

#[test]
fn dirty_survives_protection_and_ends_with_the_harvest() {
    let (table, _, _) = space::<Npu>(4);
    table
        .map(range(0..BLOCK), Target::local(0), Rights::Atomic)
        .unwrap();
    assert!(!table.walk(PageNo(3), Access::Read).unwrap().dirty);
    assert!(table.walk(PageNo(3), Access::Write).unwrap().dirty);
    table.protect(range(0..4), Rights::Read).unwrap();
    let mut told = Vec::new();
    table
        .harvest(range(3..5), |mapping| {
            told.push((mapping.range, mapping.rights, mapping.dirty))
        })
        .unwrap();
    assert_eq!(
        told,
        [
            (range(3..4), Rights::Read, true),
            (range(4..5), Rights::Atomic, true)
        ]
    );
    table
        .harvest(range(3..5), |_| panic!("told twice"))
        .unwrap();
}

#[test]
fn a_fault_says_what_was_tried_and_what_is_there() {
    let (table, _, _) = space::<Gpu>(5);
    table
        .map(range(0..16), Target::local(0), Rights::None)
        .unwrap();
    let fault = |page, access| table.walk(PageNo(page), access).unwrap_err().to_string();
    assert_eq!(
        fault(15, Access::Read),
        "Read of page 0xf (address 0xf000): it is mapped with rights None only"
    );
    assert_eq!(
        fault(16, Access::Atomic),
        "Atomic of page 0x10 (address 0x10000): it is not mapped"
    );
    assert!(fault(u64::MAX >> 12, Access::Read).ends_with("beyond the device's virtual addresses"));
}
