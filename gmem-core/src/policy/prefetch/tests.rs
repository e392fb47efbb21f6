//! Faults of whole workloads, with streams alone and with trees beside them.

use super::*;
use crate::policy::simulation::Random;
use crate::policy::simulation::traces::{KINDS, Shape};

/// Memory of `there.len()` pages with room for some of them. Clock chooses who leaves; what came along has no mark.
struct Memory {
    there: Vec<Option<bool>>,
    room: usize,
    count: usize,
    hand: usize,
}

impl Memory {
    fn full(pages: usize, room: usize) -> Self {
        let mut memory = Self {
            there: vec![None; pages],
            room,
            count: 0,
            hand: 0,
        };
        (0..pages).for_each(|page| {
            memory.add(page, true);
        });
        memory
    }

    fn add(&mut self, page: usize, mark: bool) -> bool {
        if self.there.get(page) != Some(&None) {
            return false;
        }
        while self.count >= self.room {
            match &mut self.there[self.hand] {
                Some(mark) if *mark => *mark = false,
                other => self.count -= usize::from(other.take().is_some()),
            }
            self.hand = (self.hand + 1) % self.there.len();
        }
        self.there[page] = Some(mark);
        self.count += 1;
        true
    }
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    faults: u64,
    along: u64,
}

fn run(what: Prefetching, pages: u32, percent: u32, touches: &[u32]) -> Counts {
    let room = pages as usize * percent as usize / 100;
    let mut memory = Memory::full(pages as usize, room);
    let (mut foreseen, mut plan) = (Foreseen::new(what), Plan::default());
    let mut counts = Counts {
        faults: 0,
        along: 0,
    };
    for page in touches {
        if !memory.add(*page as usize, true) {
            continue;
        }
        counts.faults += 1;
        plan.clear();
        foreseen.room(room as u64);
        foreseen.plan(PageNo(u64::from(*page)), &mut plan);
        assert!(plan.pages() <= 64);
        let mut along = 0;
        for (cluster, mask) in plan.clusters() {
            let comes = |page: &PageNo| memory.add(page.0 as usize, false);
            along += cluster.pages(*mask).filter(comes).count() as u64;
        }
        if along > 0 {
            foreseen.brought(along);
        }
        counts.along += along;
    }
    counts
}

/// With streams alone, and with trees.
fn both(name: &str, pages: u32, percent: u32, touches: &[u32]) -> [Counts; 2] {
    let what = [Prefetching::Streams, Prefetching::All];
    let counts = what.map(|what| run(what, pages, percent, touches));
    println!(
        "{name}, {percent}% of {pages} pages: {} faults, {} with trees, which brought {}",
        counts[0].faults, counts[1].faults, counts[1].along
    );
    counts
}

const PAGES: u32 = 16_384;
const TOUCHES: usize = 400_000;

/// `hot` pages, contiguous or scattered, get so many percent of the touches. Others are hot after 16 touches of each.
fn phases(hot: u32, percent: u32, scattered: bool) -> Vec<u32> {
    let mut random = Random::new(7);
    let mut order: Vec<u32> = (0..PAGES).collect();
    if scattered {
        random.shuffle(&mut order);
    }
    let touch = |n: usize| {
        let first = n as u32 / (16 * hot) * hot;
        match random.below(100) < percent {
            true => order[((first + random.below(hot)) % PAGES) as usize],
            false => random.below(PAGES),
        }
    };
    (0..TOUCHES).map(touch).collect()
}

fn uniform(pages: u32) -> Vec<u32> {
    let mut random = Random::new(1);
    (0..TOUCHES).map(|_| random.below(pages)).collect()
}

fn zipf(pages: u32) -> Vec<u32> {
    let shape = Shape {
        pages,
        capacity: pages / 2,
        touches: TOUCHES,
        seed: 3,
    };
    let named = KINDS.iter().find(|kind| kind.name == "zipf-0.99");
    named.unwrap().generate(&shape)
}

#[test]
fn an_area_that_is_visited_at_random_comes_along() {
    for percent in [50, 75] {
        let [without, with] = both("a small area", PAGES, percent, &phases(800, 100, false));
        assert!(with.faults * 2 < without.faults);
        let [without, with] = both("area and noise", PAGES, percent, &phases(1600, 90, false));
        assert!(with.faults * 5 < without.faults * 4);
    }
}

#[test]
fn several_areas_at_once_come_along() {
    let mut random = Random::new(5);
    let touch = |n: usize| {
        let first = n as u32 / 12_000 * 300;
        let area = random.below(4) * (PAGES / 4);
        area + (first + random.below(300)) % (PAGES / 4)
    };
    let touches: Vec<u32> = (0..TOUCHES).map(touch).collect();
    let [without, with] = both("four areas", PAGES, 50, &touches);
    assert!(with.faults * 2 < without.faults);
}

#[test]
fn unpredictable_touches_bring_in_hardly_more_than_their_pages() {
    for percent in [25, 50] {
        for pages in [10_000, PAGES, 65_536] {
            for (name, touches) in [("uniform", uniform(pages)), ("zipf", zipf(pages))] {
                let [without, with] = both(name, pages, percent, &touches);
                assert!(with.along * 25 <= with.faults, "{name} {with:?}");
                assert!(with.faults * 100 <= without.faults * 101, "{name} {with:?}");
            }
        }
        let touches = phases(1600, 90, true);
        let [without, with] = both("scattered phases", PAGES, percent, &touches);
        assert!(with.along * 25 <= with.faults, "{with:?}");
        assert!(with.faults * 100 <= without.faults * 101, "{with:?}");
    }
}

#[test]
fn scans_and_strides_are_the_streams_business() {
    let scan: Vec<u32> = (0..TOUCHES as u32).map(|n| n % PAGES).collect();
    let lap = (0..17).flat_map(|first| (first..PAGES).step_by(17));
    let stride: Vec<u32> = lap.cycle().take(TOUCHES).collect();
    for (name, touches) in [("scan", scan), ("stride", stride)] {
        let [without, with] = both(name, PAGES, 50, &touches);
        assert!(with.faults <= without.faults + without.faults / 100);
    }
}

#[test]
fn nothing_comes_along_if_it_is_off() {
    let touches: Vec<u32> = (0..1000).collect();
    let counts = run(Prefetching::Off, PAGES, 50, &touches);
    assert_eq!((counts.faults, counts.along), (1000, 0));
}
