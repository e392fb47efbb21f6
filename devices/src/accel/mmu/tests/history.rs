//! Random histories, step by step against the model.

use gmem_core::page::{BLOCK_PAGES, PageNo, PageRange};
use proptest::prelude::*;

use super::model::{Model, bytes};
use super::{ACCESSES, RIGHTS, is_full, space};
use crate::accel::mmu::{Access, Aperture, Format, Gpu, Leaf, Npu, Rights, TableError, Target};

const BLOCK: u64 = BLOCK_PAGES as u64;
/// Pages that histories are about: four blocks, in the middle of them the border of two root entries.
const PAGES: u64 = 4 * BLOCK;
const FIRST: u64 = (1 << (47 - 12)) - 2 * BLOCK;

#[derive(Clone, Debug)]
enum Step {
    Map {
        page: u64,
        large: bool,
        target: Target,
        rights: Rights,
    },
    Unmap {
        pages: PageRange,
    },
    Protect {
        pages: PageRange,
        rights: Rights,
    },
    Walk {
        page: PageNo,
        access: Access,
    },
    Harvest {
        pages: PageRange,
    },
}

/// Ranges in multiples of `unit` pages.
fn ranges(unit: u64) -> impl Strategy<Value = PageRange> {
    let short = (0..PAGES / unit, 0..4u64);
    let any = (0..PAGES / unit, 0..PAGES / unit);
    prop_oneof![short, any].prop_map(move |(first, count)| {
        let count = count.min(PAGES / unit - first);
        PageRange::new(PageNo(FIRST + first * unit), count * unit)
    })
}

fn targets() -> impl Strategy<Value = Target> {
    let aperture = prop_oneof![
        6 => Just(Aperture::Local),
        1 => Just(Aperture::System),
        1 => (0..9u8).prop_map(Aperture::Peer),
    ];
    // Often aligned to blocks, and now and then further than the formats reach.
    let address = prop_oneof![
        4 => (0..64u64).prop_map(|block| bytes(block * BLOCK)),
        4 => (0..64 * 32u64).prop_map(|number| bytes(number * 16)),
        1 => any::<u64>().prop_map(|address| address >> 12 << 12),
    ];
    (aperture, address).prop_map(|(aperture, address)| Target { aperture, address })
}

fn steps(granule: u64) -> impl Strategy<Value = Vec<Step>> {
    let rights = || {
        prop_oneof![
            Just(Rights::Atomic),
            Just(Rights::Read),
            prop::sample::select(&RIGHTS[..])
        ]
    };
    let pages = || prop_oneof![4 => ranges(granule), 2 => ranges(BLOCK), 1 => ranges(1)];
    let map = (0..PAGES, any::<bool>(), targets(), rights());
    let step = prop_oneof![
        6 => map.prop_map(|(page, large, target, rights)| Step::Map { page, large, target, rights }),
        3 => pages().prop_map(|pages| Step::Unmap { pages }),
        2 => (pages(), rights()).prop_map(|(pages, rights)| Step::Protect { pages, rights }),
        6 => (0..PAGES, prop::sample::select(&ACCESSES[..]))
            .prop_map(|(page, access)| Step::Walk { page: PageNo(FIRST + page), access }),
        2 => pages().prop_map(|pages| Step::Harvest { pages }),
    ];
    prop::collection::vec(step, 1..60)
}

/// Whether a change of `pages` should have gone through, and what it split if not; `took` says that it took tables.
fn goes_through<F: Format, T>(
    model: &mut Model,
    pages: PageRange,
    result: &Result<T, TableError>,
    took: bool,
) -> bool {
    let aligned = (pages.start.0 | pages.pages).is_multiple_of(F::granule());
    match result {
        Err(TableError::Misaligned { .. }) => assert!(!aligned),
        // There was room for one of two.
        Err(TableError::NoTables { .. }) if took => model.split::<F>(pages.start),
        Err(TableError::NoTables { .. }) => {}
        Err(TableError::Inexpressible { .. }) => {
            assert!(!model.is_free(pages));
            model.split::<F>(pages.start);
            model.split::<F>(pages.end());
        }
        Err(error) => panic!("{error}"),
        Ok(_) if pages.pages > 0 => {
            model.split::<F>(pages.start);
            model.split::<F>(pages.end());
        }
        Ok(_) => {}
    }
    assert!(aligned || result.is_err());
    result.is_ok()
}

fn check<F: Format>(steps: Vec<Step>, tables: u64) {
    let (table, _memory, region) = space::<F>(tables);
    let mut model = Model::default();
    let granule = F::granule();
    for step in steps {
        let free = region.free_tables();
        match step {
            Step::Map {
                page,
                large,
                target,
                rights,
            } => {
                let pages = if large { BLOCK } else { granule };
                let range = PageRange::new(PageNo(FIRST + page - page % pages), pages);
                let leaf = Leaf { target, rights };
                let level = F::LEVELS
                    .iter()
                    .find(|level| level.pages() == pages)
                    .unwrap();
                let mapped = table.map(range, target, rights);
                if is_full(&mapped) {
                    assert!(free < F::LEVELS.len() as u64 && region.free_tables() == free);
                    continue;
                }
                let possible = target.address % bytes(pages) == 0 && F::page(level, leaf).is_some();
                assert_eq!(
                    mapped.is_ok(),
                    possible && model.is_free(range),
                    "{mapped:?}"
                );
                if mapped.is_ok() {
                    model.map::<F>(range, leaf);
                }
            }
            Step::Unmap { pages } => {
                let mut told = Vec::new();
                let result = table.unmap(pages, |mapping| told.push(mapping));
                // What is retired is not free yet.
                if goes_through::<F, _>(&mut model, pages, &result, region.free_tables() < free) {
                    assert_eq!(told, model.mappings(pages));
                    model.unmap(pages);
                } else {
                    assert_eq!(told, []);
                }
            }
            Step::Protect { pages, rights } => {
                let result = table.protect(pages, rights);
                if goes_through::<F, _>(&mut model, pages, &result, region.free_tables() < free) {
                    model.protect(pages, rights);
                }
            }
            Step::Walk { page, access } => {
                let expected = model.walk::<F>(page, access);
                let found = table.walk(page, access);
                match (found, expected) {
                    (Ok(found), Ok(cell)) => {
                        let into = bytes(page.0 % granule);
                        assert_eq!(found.of(page), cell.leaf.target.add(into));
                        assert_eq!((found.range, found.rights), (cell.whole, cell.leaf.rights));
                        assert_eq!(found.dirty, cell.dirty);
                    }
                    (found, expected) => {
                        assert_eq!(
                            found.map_err(|fault| fault.cause).unwrap_err(),
                            expected.unwrap_err()
                        );
                    }
                }
            }
            Step::Harvest { pages } => {
                let mut told = Vec::new();
                table.harvest(pages, |mapping| told.push(mapping)).unwrap();
                if F::ACCESSED == 0 {
                    assert_eq!(told, []);
                } else {
                    let mut expected = model.mappings(pages);
                    expected.retain(|mapping| mapping.accessed);
                    assert_eq!(told, expected);
                    model.forget_accesses(pages);
                }
            }
        }
    }
    let mut told = Vec::new();
    let all = PageRange::new(PageNo(0), F::end());
    drop(table.unmap(all, |mapping| told.push(mapping)).unwrap());
    assert_eq!(told, model.mappings(all));
    assert_eq!((table.tables_used(), region.free_tables()), (1, tables - 1));
    drop(table);
    assert_eq!(region.free_tables(), tables);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn npu_tables_say_what_they_were_told(steps in steps(Npu::granule()), tables in 4..24u64) {
        check::<Npu>(steps, tables);
    }

    #[test]
    fn gpu_tables_say_what_they_were_told(steps in steps(Gpu::granule()), tables in 5..24u64) {
        check::<Gpu>(steps, tables);
    }
}
