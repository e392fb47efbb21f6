//! Tables that hold anything: walks end in a fault or somewhere, changes in an error or not, and nothing panics.

use std::sync::atomic::Ordering::Relaxed;

use gmem_core::page::{PageNo, PageRange};
use proptest::prelude::*;

use super::{ACCESSES, space};
use crate::accel::mmu::{Format, Gpu, LocalMemory, Npu, Rights, TABLE_SIZE, Target, walk};

const TABLES: u64 = 8;

/// Words that look like entries more often than not.
fn entries() -> impl Strategy<Value = u64> {
    let valid = (
        0..1u64 << 9,
        0..TABLES * 2,
        prop_oneof![Just(8u32), Just(12)],
    );
    prop_oneof![
        1 => any::<u64>(),
        4 => valid.prop_map(|(flags, table, shift)| flags | 1 | table << shift),
        2 => (0..TABLES).prop_map(|table| Npu::table(table * TABLE_SIZE)),
        2 => (0..TABLES).prop_map(|table| Gpu::table(table * TABLE_SIZE)),
    ]
}

fn check<F: Format>(words: &[u64], pages: &[u64], root: u64) {
    let (table, memory, _region) = space::<F>(TABLES);
    let range = |page: u64, count: u64| PageRange::new(PageNo(page % F::end()), count);
    let granule = F::granule();
    for page in pages {
        let page = page % F::end();
        let _ = table.map(
            range(page - page % granule, granule),
            Target::local(0),
            Rights::Read,
        );
    }
    for (index, word) in memory.iter().enumerate() {
        word.store(words[index % words.len()], Relaxed);
    }
    for (page, access) in pages.iter().zip(ACCESSES.iter().cycle()) {
        let _ = table.walk(PageNo(*page), *access);
        let _ = walk::<F>(&memory, root, PageNo(*page), *access);
        let _ = walk::<F>(
            &memory,
            root % (TABLES * TABLE_SIZE) / 8 * 8,
            PageNo(page % F::end()),
            *access,
        );
    }
    for page in pages {
        let page = page % F::end() / granule * granule;
        let _ = table.protect(range(page, granule), Rights::Atomic);
        let _ = table.map(range(page, granule), Target::local(0), Rights::Read);
        let _ = table.harvest(range(0, F::end()), |_| ());
        let _ = table.unmap(range(page, granule), |_| ());
    }
    let _ = table.unmap(range(0, F::end()), |_| ());
    drop(table);
}

proptest! {
    #[test]
    fn nothing_panics_and_everything_ends(
        words in prop::collection::vec(entries(), 1..2000),
        pages in prop::collection::vec(any::<u64>(), 1..20),
        root: u64,
    ) {
        check::<Npu>(&words, &pages, root);
        check::<Gpu>(&words, &pages, root);
    }

    #[test]
    fn what_decodes_as_a_page_encodes_to_the_same_entry(entry in entries()) {
        for level in Npu::LEVELS {
            if let crate::accel::mmu::Decoded::Page(leaf) = Npu::decode(level, entry) {
                let noted = Npu::ACCESSED | Npu::DIRTY;
                prop_assert_eq!(Npu::page(level, leaf), Some(entry & !noted));
            }
        }
    }
}

#[test]
fn a_table_that_leads_to_itself_is_walked_once_a_level_and_not_visited() {
    let (table, memory, _region) = space::<Npu>(TABLES);
    for index in 0..512 {
        memory
            .word(index * 8)
            .unwrap()
            .store(Npu::table(table.root()), Relaxed);
    }
    assert!(table.walk(PageNo(0), ACCESSES[0]).is_err());
    let error = table
        .harvest(PageRange::new(PageNo(0), Npu::end()), |_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry 0x1 at 0x0 of the tables is not one of ours"
    );
}
