//! Which page comes next.

use super::Crew;
use crate::math::permutation::Permutation;
use crate::math::random::Random;
use crate::math::zipf::Zipf;
use crate::plan::Workload;

/// Streams of random numbers: the CPUs' own begin after these.
const SCATTER: u64 = 0;
const FIRST_CPU: u64 = 1 << 32;

/// The sequence of pages of one CPU.
pub(super) struct Generator {
    random: Random,
    pages: u64,
    /// Where the next ascending access goes.
    position: u64,
    law: Law,
}

enum Law {
    Scan,
    Stride(u64),
    Uniform,
    Zipf(Zipf, Permutation),
    HotScan(HotSet),
    Phase {
        hot: HotSet,
        /// Operations of this CPU in a phase, and those left.
        length: u64,
        left: u64,
    },
}

/// The pages of the ranks `first..first + len`, modulo all.
struct HotSet {
    /// The page of each rank; none if the ranks are the pages.
    order: Option<Permutation>,
    first: u64,
    len: u64,
    /// Percent of the operations that go there.
    ops: u64,
}

impl HotSet {
    fn draw(&self, pages: u64, random: &mut Random) -> u64 {
        let rank = (self.first + random.below(self.len)) % pages;
        self.order.as_ref().map_or(rank, |order| order.get(rank))
    }

    /// Only for a set that never moved.
    fn contains(&self, page: u64) -> bool {
        let rank = self.order.as_ref().map(|order| order.inverse(page));
        rank.unwrap_or(page) < self.len
    }
}

impl Generator {
    /// The generator of the crew's workload; none if the workload is of another kind or there is no page.
    pub(super) fn new<M>(crew: &Crew<'_, M>) -> Option<Self> {
        let (pages, seed) = (crew.set.pages(), crew.plan.seed);
        if pages == 0 {
            return None;
        }
        let scatter = Permutation::new(pages, seed, SCATTER);
        let hot_set = |hot: u64, ops, together: bool| HotSet {
            order: (!together).then(|| scatter.clone()),
            first: 0,
            len: ((u128::from(pages) * u128::from(hot) / 100) as u64).max(1),
            ops,
        };
        let law = match crew.plan.workload {
            Workload::Scan => Law::Scan,
            Workload::Stride { stride } => Law::Stride(stride.min(pages)),
            Workload::Uniform => Law::Uniform,
            Workload::Zipf { theta } => Law::Zipf(Zipf::new(pages, theta), scatter),
            Workload::HotScan {
                hot,
                hot_ops,
                together,
            } => Law::HotScan(hot_set(hot, hot_ops, together)),
            Workload::Phase {
                hot,
                hot_ops,
                phase_ops,
                together,
            } => {
                let hot = hot_set(hot, hot_ops, together);
                let length = phase_ops.unwrap_or(hot.len * 16) / crew.cpus as u64;
                Law::Phase {
                    hot,
                    length: length.max(1),
                    left: length.max(1),
                }
            }
            _ => return None,
        };
        Some(Self {
            random: Random::new(seed, FIRST_CPU + crew.cpu as u64),
            pages,
            // CPUs that ascend are spread over the memory.
            position: pages / crew.cpus as u64 * crew.cpu as u64,
            law,
        })
    }

    /// True in `percent` of a hundred cases.
    #[inline]
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// The next page's number.
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        let pages = self.pages;
        match &mut self.law {
            Law::Scan => ascend(&mut self.position, pages),
            Law::Stride(stride) => {
                let page = self.position;
                self.position += *stride;
                if self.position >= pages {
                    // Once more, one page further on.
                    self.position = (self.position % *stride + 1) % *stride;
                }
                page
            }
            Law::Uniform => self.random.below(pages),
            Law::Zipf(zipf, scatter) => scatter.get(zipf.sample(&mut self.random)),
            Law::HotScan(hot) => {
                if self.random.below(100) < hot.ops {
                    return hot.draw(pages, &mut self.random);
                }
                let mut page = ascend(&mut self.position, pages);
                while hot.contains(page) && hot.len < pages {
                    page = ascend(&mut self.position, pages);
                }
                page
            }
            Law::Phase { hot, length, left } => {
                if *left == 0 {
                    *left = *length;
                    hot.first = (hot.first + hot.len) % pages;
                }
                *left -= 1;
                if self.random.below(100) < hot.ops {
                    hot.draw(pages, &mut self.random)
                } else {
                    self.random.below(pages)
                }
            }
        }
    }
}

#[inline]
fn ascend(position: &mut u64, pages: u64) -> u64 {
    let page = *position;
    *position = if page + 1 < pages { page + 1 } else { 0 };
    page
}
