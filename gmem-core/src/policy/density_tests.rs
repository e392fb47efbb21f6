use super::*;
use crate::table::{Frame, Guard};

const PAGES: u64 = 1024;

/// A table of pages that came in by a touch of their own, in order.
fn arrived(density: &Density, pages: impl Iterator<Item = u64>) -> LogicalPageTable {
    let table = LogicalPageTable::new(PageNo(PAGES));
    for block in 0..table.blocks() {
        if let Some(block) = table.try_lock_block(block) {
            block.split();
        }
    }
    for page in pages.map(PageNo) {
        let flags = density.arrives(page, table.peek(page), true);
        set(&table, page, Entry::new(State::Mapped, flags));
    }
    table
}

fn set(table: &LogicalPageTable, page: PageNo, entry: Entry) {
    if let Guard::Pages(mut pages) = table.lock(page) {
        pages.commit(ClusterNo::index(page), entry);
    }
}

fn density(pages: u64) -> Density {
    Density::new(PAGES / 64, pages)
}

#[test]
fn all_that_may_leave_leaves_in_the_end_and_what_is_pinned_never() {
    let density = density(100);
    let table = arrived(&density, 0..100);
    let pinned = table.peek(PageNo(70));
    set(
        &table,
        PageNo(70),
        pinned.with_flags(pinned.flags().with(Flags::PINNED)),
    );
    let mut left = 0;
    while let Some(Victims::Pages { cluster, mask }) = density.victims(&table) {
        for page in cluster.pages(mask) {
            assert_eq!(
                table.peek(page).state(),
                State::Mapped,
                "{page} is named once"
            );
            assert_ne!(page, PageNo(70));
            set(&table, page, Entry::held(1, Frame(0), Flags::NONE));
            left += 1;
        }
    }
    assert_eq!(left, 99);
}

#[test]
fn a_page_that_is_used_outlives_those_that_are_not() {
    let density = density(256);
    let table = arrived(&density, 0..256);
    let mut left = 0;
    while left < 192 {
        let hot = table.peek(PageNo(70));
        assert_eq!(hot.state(), State::Mapped);
        set(
            &table,
            PageNo(70),
            hot.with_flags(hot.flags().with(Flags::ACCESSED)),
        );
        let Some(Victims::Pages { cluster, mask }) = density.victims(&table) else {
            panic!("there are others")
        };
        for page in cluster.pages(mask) {
            set(
                &table,
                page,
                Entry::held(1, Frame(0), table.peek(page).flags()),
            );
            left += 1;
        }
    }
}

#[test]
fn a_page_that_comes_in_where_nothing_was_is_found() {
    let density = density(8);
    let table = arrived(&density, 0..1);
    let first = Victims::Pages {
        cluster: ClusterNo(0),
        mask: 1,
    };
    assert_eq!(density.victims(&table), Some(first));
    set(&table, PageNo(0), Entry::held(1, Frame(0), Flags::NONE));
    assert_eq!(density.victims(&table), None);
    let page = PageNo(900);
    let flags = density.arrives(page, table.peek(page), true);
    set(&table, page, Entry::new(State::Mapped, flags));
    let cluster = ClusterNo::of(page);
    assert_eq!(
        density.victims(&table),
        Some(Victims::Pages {
            cluster,
            mask: 1 << 4
        })
    );
}

#[test]
fn a_whole_block_leaves_whole() {
    let density = density(512);
    let table = LogicalPageTable::new(PageNo(PAGES));
    if let Guard::Block(block) = table.lock(PageNo(512)) {
        block.commit(Entry::new(State::Mapped, Flags::ACCESSED));
    }
    assert_eq!(density.victims(&table), Some(Victims::Block(1)));
}
