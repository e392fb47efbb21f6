use super::*;

fn split_table() -> LogicalPageTable {
    let table = LogicalPageTable::new(PageNo(1024));
    match table.lock(PageNo(512)) {
        Guard::Block(block) => block.split(),
        Guard::Pages(_) => panic!("a fresh block is whole"),
    }
    table
}

fn held(frame: u64) -> Entry {
    Entry::held(1, Frame(frame), Flags::NONE)
}

#[test]
fn a_guard_that_is_dropped_leaves_the_page_where_it_was() {
    let table = split_table();
    let before = table.peek(PageNo(515));
    drop(table.lock(PageNo(515)));
    assert_eq!(table.peek(PageNo(515)), before);
    assert!(
        table
            .try_lock_pages(ClusterNo(8), 1 << 3, |_, _| true)
            .is_some(),
        "the lock was let go"
    );
}

#[test]
fn a_held_page_is_not_locked_twice() {
    let table = split_table();
    let _guard = table.lock(PageNo(512));
    let others = table.try_lock_pages(ClusterNo(8), 0b11, |_, _| true);
    assert_eq!(others.map(|pages| pages.mask()), Some(0b10));
}

#[test]
fn a_split_block_says_of_each_page_where_its_part_of_the_frame_is() {
    let table = LogicalPageTable::new(PageNo(512));
    let Guard::Block(block) = table.lock(PageNo(0)) else {
        panic!("a fresh block is whole")
    };
    block.commit(held(512));
    assert_eq!(table.peek(PageNo(9)), held(521));
    let Guard::Block(block) = table.lock(PageNo(9)) else {
        panic!("the block is whole")
    };
    block.split();
    assert_eq!(table.peek(PageNo(9)), held(521));
    assert!(matches!(table.lock(PageNo(9)), Guard::Pages(_)));
}

#[test]
fn a_collapse_waits_for_no_page_and_hides_the_leaf() {
    let table = split_table();
    let guard = table.lock(PageNo(700));
    assert!(table.try_lock_leaf(1).is_none(), "a page of it is locked");
    drop(guard);
    table
        .try_lock_leaf(1)
        .expect("nothing is locked")
        .collapse(held(0));
    assert_eq!(table.peek(PageNo(700)), held(188));
    assert!(
        table
            .try_lock_pages(ClusterNo(8), u64::MAX, |_, _| true)
            .is_none()
    );
    assert!(table.try_lock_block(1).is_some());
}

#[test]
fn metadata_is_at_most_a_five_hundredth_of_memory_when_everything_is_split() {
    let table = LogicalPageTable::new(PageNo(64 * 512));
    for block in 0..64 {
        match table.lock(PageNo(block * 512)) {
            Guard::Block(block) => block.split(),
            Guard::Pages(_) => panic!("a fresh block is whole"),
        }
    }
    let memory = 64 * crate::page::BLOCK_SIZE as u64;
    assert!(
        table.metadata_bytes() * 500 <= memory,
        "{} of {memory}",
        table.metadata_bytes()
    );
}

#[test]
fn pages_migrate_while_their_block_is_split_and_collapsed_without_losing_a_change() {
    let table = std::sync::Arc::new(split_table());
    let counters: Vec<_> = (0..3)
        .map(|thread| {
            let table = table.clone();
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    match table.lock(PageNo(512 + thread)) {
                        Guard::Pages(mut pages) => {
                            let index = thread as usize;
                            let flags = pages.entry(index).flags();
                            pages.commit(index, Entry::new(State::Mapped, flags));
                        }
                        Guard::Block(block) => {
                            block.split_into(|_| Entry::new(State::Mapped, Flags::NONE))
                        }
                    }
                    if thread == 0
                        && let Some(leaf) = table.try_lock_leaf(1)
                    {
                        leaf.collapse(Entry::new(State::Mapped, Flags::NONE));
                    }
                }
            })
        })
        .collect();
    for counter in counters {
        counter.join().expect("no thread panics");
    }
    for page in 0..3 {
        assert_eq!(table.peek(PageNo(512 + page)).state(), State::Mapped);
    }
    assert!(
        table.try_lock_leaf(1).is_some() || table.try_lock_block(1).is_some(),
        "no lock is left"
    );
}
