//! Fault-around for streams of touches that follow each other, upwards or downwards.
//!
//! A first touch brings in one page. A touch where a stream would go on doubles the stream's window, up
//! to the rest of the cluster. A touch anywhere else begins a new stream in the place of the one least
//! recently used, so an unpredictable touch brings in nothing but its page.

use super::Prefetch;
use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo, bits};

const STREAMS: usize = 16;
/// How far beyond the expected page a touch still belongs to its stream.
const SLACK: u64 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The latest touch.
    last: u64,
    /// First page not yet planned, above and below.
    above: u64,
    below: u64,
    direction: Direction,
    window: u64,
    /// Pages that came along with the latest touch.
    brought: u64,
    used_at: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Direction {
    #[default]
    Unknown,
    Up,
    Down,
}

/// Streams of one fault handler.
#[derive(Debug, Default)]
pub struct Streams {
    streams: [Stream; STREAMS],
    now: u64,
    latest: usize,
    used: u64,
}

impl Stream {
    /// The direction in which a touch of `page` continues this stream.
    fn continues(&self, page: u64) -> Option<Direction> {
        let up = page > self.last && page <= self.above + SLACK;
        let down = page < self.last && page + SLACK + 1 >= self.below;
        match self.direction {
            _ if self.used_at == 0 => None,
            Direction::Unknown | Direction::Up if up => Some(Direction::Up),
            Direction::Unknown | Direction::Down if down => Some(Direction::Down),
            _ => None,
        }
    }
}

impl Prefetch for Streams {
    fn plan(&mut self, touched: PageNo) -> u64 {
        let page = touched.0;
        self.now += 1;
        let found = self
            .streams
            .iter()
            .enumerate()
            .find_map(|(at, stream)| stream.continues(page).map(|direction| (at, direction)));
        let (at, direction) = found.unwrap_or_else(|| {
            let oldest = self
                .streams
                .iter()
                .enumerate()
                .min_by_key(|(_, stream)| stream.used_at);
            (oldest.map_or(0, |(at, _)| at), Direction::Unknown)
        });
        self.latest = at;
        let stream = &mut self.streams[at];
        let window = match direction {
            Direction::Unknown => 1,
            _ => {
                self.used += stream.brought;
                (stream.window * 4).min(CLUSTER_PAGES as u64)
            }
        };
        let index = ClusterNo::index(touched);
        let (first, length) = match direction {
            Direction::Down => {
                let length = (window as usize).min(index + 1);
                (index + 1 - length, length)
            }
            _ => (index, (window as usize).min(CLUSTER_PAGES - index)),
        };
        let start = page - index as u64 + first as u64;
        *stream = Stream {
            last: page,
            above: start + length as u64,
            below: start,
            direction,
            window,
            brought: 0,
            used_at: self.now,
        };
        bits(first, length)
    }

    fn brought(&mut self, pages: u64) {
        self.streams[self.latest].brought = pages;
    }

    fn take_used(&mut self) -> u64 {
        std::mem::take(&mut self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Touches the pages in order; returns how many faults it takes.
    fn faults(pages: impl Iterator<Item = u64>) -> usize {
        let mut streams = Streams::default();
        let mut there = std::collections::HashSet::new();
        let mut faults = 0;
        for page in pages {
            if there.contains(&page) {
                continue;
            }
            faults += 1;
            let mask = streams.plan(PageNo(page));
            let cluster = ClusterNo::of(PageNo(page));
            let before = there.len();
            there.extend(
                (0..64)
                    .filter(|bit| mask & 1 << bit != 0)
                    .map(|bit| cluster.page(bit).0),
            );
            streams.brought((there.len() - before - 1) as u64);
        }
        faults
    }

    #[test]
    fn a_scan_faults_about_once_a_cluster_upwards_and_downwards() {
        assert!(faults(0..6400) <= 105);
        assert!(faults((0..6400).rev()) <= 105);
    }

    #[test]
    fn scans_that_alternate_are_told_apart() {
        assert!(faults((0..6400).flat_map(|page| [page, 1_000_000 + page])) <= 210);
    }

    #[test]
    fn an_unpredictable_touch_brings_in_one_page() {
        let mut streams = Streams::default();
        let mut page = 1u64;
        for _ in 0..1000 {
            page = page
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            assert_eq!(streams.plan(PageNo(page >> 20)).count_ones(), 1);
        }
        assert_eq!(streams.take_used(), 0);
    }

    proptest! {
        #[test]
        fn a_plan_holds_the_touched_page(pages in prop::collection::vec(0u64..300, 1..100)) {
            let mut streams = Streams::default();
            for page in pages {
                prop_assert!(streams.plan(PageNo(page)) & 1 << (page % 64) != 0);
            }
        }
    }
}
