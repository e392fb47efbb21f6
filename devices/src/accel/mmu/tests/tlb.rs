//! The TLB alone.

use gmem_core::page::PageNo;
use proptest::prelude::*;

use super::range;
use crate::accel::mmu::{Access, Counters, Rights, Target, Tlb, Translation};

fn translation(start: u64, pages: u64, rights: Rights, dirty: bool) -> Translation {
    Translation {
        range: range(start..start + pages),
        target: Target::local(start << 12),
        rights,
        dirty,
    }
}

#[test]
fn a_hit_allows_the_access_without_a_walk_and_anything_else_is_a_miss() {
    let mut tlb = Tlb::new(4, 2, [1, 512]);
    tlb.insert(translation(512, 512, Rights::Write, false));
    let mut allowed = |access| tlb.lookup(PageNo(700), access).is_some();
    assert!(allowed(Access::Read));
    assert!(
        !allowed(Access::Write),
        "the walk would note that it is dirty"
    );
    tlb.insert(translation(512, 512, Rights::Write, true));
    let mut allowed = |access| tlb.lookup(PageNo(700), access).is_some();
    assert!(allowed(Access::Write));
    assert!(!allowed(Access::Atomic));
    assert!(tlb.lookup(PageNo(1024), Access::Read).is_none());
    tlb.invalidate(range(1023..1030));
    assert!(tlb.lookup(PageNo(700), Access::Read).is_none());
    let expected = Counters {
        hits: 2,
        misses: 4,
        invalidations: 1,
    };
    assert_eq!(tlb.counters(), expected);
}

#[test]
fn the_way_used_longest_ago_is_replaced() {
    let mut tlb = Tlb::new(1, 2, [1]);
    tlb.insert(translation(1, 1, Rights::Read, true));
    tlb.insert(translation(2, 1, Rights::Read, true));
    assert!(tlb.lookup(PageNo(1), Access::Read).is_some());
    tlb.insert(translation(3, 1, Rights::Read, true));
    let mut here = |page| tlb.lookup(PageNo(page), Access::Read).is_some();
    assert_eq!([here(1), here(2), here(3)], [true, false, true]);
}

proptest! {
    #[test]
    fn it_never_knows_what_was_not_inserted_or_was_invalidated(
        steps in prop::collection::vec((0..3u8, 0..64u64, 0..40u64), 1..100),
    ) {
        let mut tlb = Tlb::new(3, 2, [1, 16]);
        // Which translation of each size each page may have.
        let mut model = std::collections::HashMap::new();
        for (kind, page, pages) in steps {
            match kind {
                0 => {
                    let size = if pages % 2 == 0 { 1 } else { 16 };
                    let new = translation(page / size * size, size, Rights::Read, true);
                    tlb.insert(new);
                    model.insert((new.range.start, size), new);
                }
                1 => {
                    let gone = range(page..page + pages);
                    tlb.invalidate(gone);
                    model.retain(|_, it| it.range.iter().all(|page| !gone.contains(page)));
                }
                _ => {
                    if let Some(found) = tlb.lookup(PageNo(page), Access::Read) {
                        prop_assert!(found.range.contains(PageNo(page)));
                        prop_assert_eq!(model.get(&(found.range.start, found.range.pages)), Some(&found));
                    }
                }
            }
        }
        tlb.flush();
        prop_assert!((0..64).all(|page| tlb.lookup(PageNo(page), Access::Read).is_none()));
    }
}
