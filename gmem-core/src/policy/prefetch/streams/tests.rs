use super::*;
use proptest::prelude::*;
use std::collections::{HashSet, VecDeque};

/// Memory that holds `room` pages and drops the oldest.
struct Memory {
    room: usize,
    there: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Memory {
    fn add(&mut self, page: u64) -> bool {
        if !self.there.insert(page) {
            return false;
        }
        self.order.push_back(page);
        if self.order.len() > self.room
            && let Some(oldest) = self.order.pop_front()
        {
            self.there.remove(&oldest);
        }
        true
    }
}

/// Touches the pages in order; returns faults, and pages below `end` that came along.
fn touch(room: usize, end: u64, pages: impl Iterator<Item = u64>) -> (usize, usize) {
    let mut streams = Streams::default();
    let mut plan = Plan::default();
    let mut memory = Memory {
        room,
        there: HashSet::new(),
        order: VecDeque::new(),
    };
    let (mut faults, mut along) = (0, 0);
    for page in pages {
        if memory.there.contains(&page) {
            continue;
        }
        faults += 1;
        plan.clear();
        streams.plan(PageNo(page), &mut plan);
        memory.add(page);
        let mut brought = 0;
        for (cluster, mask) in plan.clusters() {
            brought += cluster
                .pages(*mask)
                .filter(|page| page.0 < end && memory.add(page.0))
                .count();
        }
        streams.brought(brought as u64);
        along += brought;
    }
    (faults, along)
}

fn random(seed: u64) -> impl Iterator<Item = u64> {
    let step = |seed: &u64| {
        Some(
            seed.wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407),
        )
    };
    std::iter::successors(Some(seed), step).map(|it| it >> 33)
}

/// Every `stride`-th page of `pages`, then those one page further, and so on, `touches` in all.
fn strided(pages: u64, stride: u64, touches: usize) -> impl Iterator<Item = u64> {
    let lap = move |first: u64| (first..pages).step_by(stride as usize);
    (0..stride).cycle().flat_map(lap).take(touches)
}

#[test]
fn a_scan_faults_about_once_in_64_pages_upwards_and_downwards() {
    assert!(touch(1000, 6400, 0..6400).0 <= 105);
    assert!(touch(1000, 6400, (0..6400).rev()).0 <= 105);
}

#[test]
fn scans_that_alternate_are_told_apart() {
    let both = (0..6400).flat_map(|page| [page, 1_000_000 + page]);
    assert!(touch(1000, u64::MAX, both).0 <= 210);
}

#[test]
fn strides_of_any_length_are_foreseen_and_nothing_between_them_comes_along() {
    for stride in [2, 3, 5, 17, 64, 100, 1000] {
        let (faults, along) = touch(4000, 65_000, strided(65_000, stride, 20_000));
        assert!(faults <= 1000, "{faults} faults at stride {stride}");
        assert!(along <= 21_000, "{along} pages at stride {stride}");
    }
}

#[test]
fn a_stride_downwards_among_unpredictable_touches_is_foreseen() {
    let noise = random(5).map(|it| 1_000_000 + it % 1_000_000_000);
    let mixed = (0..5000u64).rev().map(|n| n * 7).zip(noise);
    let (faults, along) = touch(
        4000,
        u64::MAX,
        mixed.flat_map(|(page, noise)| [page, noise]),
    );
    // The noise faults each time.
    assert!(faults <= 5000 + 250, "{faults}");
    assert!(along <= 5000 + 250, "{along}");
}

#[test]
fn unpredictable_touches_bring_in_hardly_more_than_their_pages() {
    for pages in [10_000, 65_536, 1_000_000] {
        let (faults, along) = touch(
            pages as usize / 4,
            pages,
            random(1).map(|it| it % pages).take(20_000),
        );
        assert!(along * 25 <= faults, "{along} pages along with {faults}");
    }
}

#[test]
fn a_scan_among_many_unpredictable_touches_makes_them_bring_in_nothing() {
    let noise = random(3).map(|it| 1_000_000 + it % 1_000_000);
    let mut noise = noise.take(40_000);
    let scan = (0..20_000u64).flat_map(|page| [Some(page), noise.next(), noise.next()]);
    let (_, along) = touch(8000, u64::MAX, scan.flatten());
    assert!(along <= 20_000 + 2500, "{along} pages for a scan of 20,000");
}

/// As [`touch`], with somebody who brings what is handed out ahead, `delay` touches later, or never. Returns faults, pages that
/// came along while the accessor waited, and those that came ahead.
fn touch_ahead(pages: impl Iterator<Item = u64>, delay: Option<u64>) -> (u64, u64, u64) {
    let (mut streams, mut plan) = (Streams::default(), Plan::default());
    let mut there = HashSet::new();
    let mut on_their_way = VecDeque::new();
    let (mut faults, mut along, mut early) = (0, 0, 0);
    for (now, page) in pages.enumerate() {
        let now = now as u64;
        while let Some((due, window, plan)) =
            on_their_way.pop_front_if(|it: &mut (u64, Window, Plan)| it.0 <= now)
        {
            let _: u64 = due;
            let brought = bring(&plan, &mut there);
            streams.brought_ahead(window, brought);
            early += brought;
        }
        if there.contains(&page) {
            continue;
        }
        faults += 1;
        plan.clear();
        streams.plan(PageNo(page), &mut plan);
        there.insert(page);
        let brought = bring(&plan, &mut there);
        streams.brought(brought);
        along += brought;
        let mut next = Plan::default();
        if let (Some(window), Some(delay)) = (streams.ahead(&mut next), delay) {
            on_their_way.push_back((now + delay, window, next));
        }
    }
    assert!(streams.take_used() <= along + early);
    (faults, along, early)
}

/// Brings a plan's pages; returns how many were not there.
fn bring(plan: &Plan, there: &mut HashSet<u64>) -> u64 {
    let pages = plan
        .clusters()
        .iter()
        .flat_map(|(cluster, mask)| cluster.pages(*mask));
    pages.filter(|page| there.insert(page.0)).count() as u64
}

#[test]
fn a_stream_waits_for_a_page_a_window_while_the_next_comes_ahead() {
    let downwards = (0..6400).rev().collect::<Vec<u64>>();
    let apart = (0..6400).map(|n| n * 17).collect();
    for pages in [(0..6400).collect(), downwards, apart] {
        let (faults, along, early) = touch_ahead(pages.into_iter(), Some(10));
        assert!(faults <= 105, "{faults}");
        assert!(along <= 200, "{along} pages came while the accessor waited");
        assert!((6000..6500).contains(&early), "{early}");
    }
}

#[test]
fn pages_that_are_on_their_way_for_long_are_brought_by_who_needs_them() {
    for delay in [Some(60), Some(100), Some(1000), None] {
        let (faults, along, early) = touch_ahead(0..6400, delay);
        assert!(
            faults <= 110,
            "{faults} faults, {along} along, {early} ahead"
        );
    }
}

#[test]
fn nothing_comes_ahead_of_unpredictable_touches() {
    let (_, _, early) = touch_ahead(random(9).map(|it| it % 100_000).take(20_000), Some(1));
    assert_eq!(early, 0);
}

#[test]
fn what_is_far_away_is_foretold_once_and_windows_before_it_is_touched() {
    let downwards = (0..6400).rev().collect::<Vec<u64>>();
    let apart = (0..6400).map(|n| n * 17).collect::<Vec<u64>>();
    for pages in [(0..6400).collect(), downwards, apart] {
        let (mut streams, mut plan) = (Streams::default(), Plan::default());
        let (mut there, mut told) = (HashSet::new(), HashSet::new());
        let mut faults_untold = 0;
        for (at, page) in pages.iter().enumerate() {
            if !there.insert(*page) {
                continue;
            }
            faults_untold += usize::from(!told.contains(page));
            plan.clear();
            streams.plan(PageNo(*page), &mut plan);
            streams.brought(bring(&plan, &mut there));
            let mut next = Plan::default();
            let Some(window) = streams.ahead(&mut next) else {
                continue;
            };
            let mut far = Plan::default();
            while streams.foretell(window, &mut far) {
                assert!(far.pages() <= 64, "one request");
                for (cluster, mask) in far.clusters() {
                    for page in cluster.pages(*mask) {
                        assert!(told.insert(page.0), "{page} was foretold before");
                    }
                }
                far.clear();
            }
            let beyond = pages.iter().skip(at + 64).take(4 * 64);
            assert!(beyond.into_iter().all(|page| told.contains(page)));
            streams.brought_ahead(window, bring(&next, &mut there));
        }
        // Until it is known to be a stream.
        assert!(faults_untold < 10, "{faults_untold}");
    }
}

proptest! {
    #[test]
    fn a_window_ahead_lies_beyond_what_was_planned(steps in prop::collection::vec(0u64..70, 1..200)) {
        let (mut streams, mut plan) = (Streams::default(), Plan::default());
        let mut page = 0;
        for step in steps {
            page += step;
            plan.clear();
            streams.plan(PageNo(page), &mut plan);
            let mut next = Plan::default();
            if streams.ahead(&mut next).is_some() {
                prop_assert!(next.pages() < 64);
                for (cluster, mask) in next.clusters() {
                    prop_assert_eq!(plan.of(*cluster) & mask, 0);
                }
            }
        }
    }

    #[test]
    fn a_plan_is_at_most_64_pages_and_knows_no_page_before_the_first(pages in prop::collection::vec(0u64..300, 1..100)) {
        let (mut streams, mut plan) = (Streams::default(), Plan::default());
        for page in pages {
            plan.clear();
            streams.plan(PageNo(page), &mut plan);
            prop_assert!(plan.pages() <= 64);
            prop_assert!(plan.clusters().iter().all(|(cluster, _)| cluster.0 < 1 << 30));
        }
    }
}
