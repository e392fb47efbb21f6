use super::*;
use proptest::prelude::*;

const ROOM: u64 = 32_768;

fn touch(tree: &mut Tree, page: u64) -> Plan {
    let mut plan = Plan::default();
    tree.room(ROOM);
    tree.plan(PageNo(page), &mut plan);
    tree.brought(plan.pages());
    plan
}

/// A tree that has found areas to go on being visited: it touched all pages of many blocks, each in an order of its own.
fn convinced() -> Tree {
    let mut tree = Tree::default();
    for block in 100..140 {
        for n in 0..512 {
            touch(&mut tree, block * 512 + (n * 107 + block) % 512);
        }
    }
    assert!(tree.believed());
    tree
}

#[test]
fn what_was_touched_densely_lately_expands_to_the_largest_dense_subtree() {
    let mut tree = convinced();
    // A quarter of 16 pages is too few, a quarter of 32 suffices, and so much of 64 does not.
    let touches = [0, 8, 16, 24, 4, 20];
    assert!(
        touches
            .into_iter()
            .all(|page| touch(&mut tree, page).pages() == 0)
    );
    let plan = touch(&mut tree, 28);
    assert_eq!(plan.pages(), 32 - 7 - 1, "all but the touched, and a probe");
    assert_eq!(plan.clusters().len(), 1);
    assert_eq!(plan.of(ClusterNo(0)) & !bits(0, 32), 0);
}

#[test]
fn a_dense_block_is_evidence_for_each_of_its_clusters() {
    let mut tree = convinced();
    // Six pages of each cluster, which is too few in any half of the block.
    let page = |n: u64| n % 8 * 64 + n / 8 * 9;
    assert!((0..47).all(|n| touch(&mut tree, page(n)).pages() == 0));
    let plan = touch(&mut tree, page(47));
    assert_eq!(plan.of(ClusterNo(7)).count_ones(), 64 - 6 - 1);
}

#[test]
fn what_was_touched_long_ago_is_no_evidence() {
    let mut tree = convinced();
    for page in [0, 8, 16, 24, 4, 20] {
        touch(&mut tree, page);
    }
    // Far apart, and nowhere twice.
    for n in 0..2 * ROOM / GENERATION {
        touch(&mut tree, (10_000 + n) * 512);
    }
    assert_eq!(touch(&mut tree, 28).pages(), 0);
}

#[test]
fn nothing_comes_along_while_nothing_is_known_or_probes_do_not_fault() {
    let mut tree = Tree::default();
    assert!((0..100).all(|n| touch(&mut tree, n * 107 % 512).pages() == 0));
    let mut tree = convinced();
    // Each area is left as soon as it is dense.
    let mut leave = |blocks: Range<u64>| {
        let plans = blocks.map(|block| {
            let pages = (0..8).map(|n| touch(&mut tree, block * 512 + n * 3).pages());
            pages.sum::<u64>()
        });
        plans.sum::<u64>()
    };
    assert!(leave(1000..1500) > 0);
    assert_eq!(leave(1500..2000), 0);
}

/// Of a few blocks, or any.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..600, any::<u64>().prop_map(|page| page >> 12)]
}

proptest! {
    #[test]
    fn a_plan_stays_in_the_cluster_and_does_not_name_the_touched_page(
        touches in prop::collection::vec((page(), 0u64..10_000), 1..2000),
    ) {
        let mut tree = convinced();
        for (page, room) in touches {
            let mut plan = Plan::default();
            tree.room(room);
            tree.plan(PageNo(page), &mut plan);
            tree.brought(plan.pages() / 2);
            prop_assert!(plan.pages() < 64);
            let of = plan.of(ClusterNo::of(PageNo(page)));
            prop_assert_eq!(u64::from(of.count_ones()), plan.pages());
            prop_assert_eq!(of & 1 << ClusterNo::index(PageNo(page)), 0);
        }
    }
}
