//! How the touches of each kind are made.

use super::{Random, Shape};

/// Pages at random, all alike.
pub(super) fn uniform(shape: &Shape, random: &mut Random) -> Vec<u32> {
    (0..shape.touches)
        .map(|_| random.below(shape.pages))
        .collect()
}

/// Ranks by Zipf's law, scattered over the pages.
struct Zipf {
    cumulated: Vec<f64>,
    scattered: Vec<u32>,
}

impl Zipf {
    fn new(pages: u32, theta: f64, random: &mut Random) -> Self {
        let mut sum = 0.0;
        let cumulated = (1..=pages).map(|rank| {
            sum += f64::from(rank).powf(-theta);
            sum
        });
        Self {
            cumulated: cumulated.collect(),
            scattered: scattered(pages, random),
        }
    }

    fn rank(&self, random: &mut Random) -> usize {
        let sum = self.cumulated.last().copied().unwrap_or(1.0);
        let drawn = random.unit() * sum;
        self.cumulated.partition_point(|upto| *upto <= drawn)
    }

    fn page(&self, random: &mut Random) -> u32 {
        self.scattered[self.rank(random)]
    }
}

fn scattered(pages: u32, random: &mut Random) -> Vec<u32> {
    let mut all: Vec<u32> = (0..pages).collect();
    random.shuffle(&mut all);
    all
}

pub(super) fn zipf(shape: &Shape, random: &mut Random, theta: f64) -> Vec<u32> {
    let zipf = Zipf::new(shape.pages, theta, random);
    (0..shape.touches).map(|_| zipf.page(random)).collect()
}

/// All pages in order, again and again.
pub(super) fn scan(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let start = random.below(shape.pages);
    (0..shape.touches as u32)
        .map(|at| (start + at) % shape.pages)
        .collect()
}

/// A loop over `times` what memory holds, with one touch in twenty at random beside it.
pub(super) fn around(shape: &Shape, random: &mut Random, times: f64) -> Vec<u32> {
    let length = ((f64::from(shape.capacity) * times) as u32).min(shape.pages);
    let mut at = 0;
    let touch = |_| {
        if random.below(20) == 0 {
            return random.below(shape.pages);
        }
        at = (at + 1) % length;
        at
    };
    (0..shape.touches).map(touch).collect()
}

/// Every 17th page, then the pages between.
pub(super) fn stride(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let start = random.below(17);
    let pass = (0..17).flat_map(|offset| ((start + offset) % 17..shape.pages).step_by(17));
    let pass: Vec<u32> = pass.collect();
    pass.into_iter().cycle().take(shape.touches).collect()
}

/// Nine touches in ten of a hot set of half of what memory holds, scattered; the others scan all pages.
pub(super) fn hot_scan(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let hot = &scattered(shape.pages, random)[..(shape.capacity / 2) as usize];
    let mut at = 0;
    let touch = |_| {
        if random.below(10) > 0 {
            return hot[random.below(hot.len() as u32) as usize];
        }
        at = (at + 1) % shape.pages;
        at
    };
    (0..shape.touches).map(touch).collect()
}

/// Nine touches in ten of a hot set, which changes after 16 touches of each of its pages; the others are at random.
pub(super) fn phases(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let size = shape.capacity / 2;
    let mut trace = Vec::with_capacity(shape.touches);
    while trace.len() < shape.touches {
        let hot = &scattered(shape.pages, random)[..size as usize];
        for _ in 0..16 * size {
            trace.push(match random.below(10) {
                0 => random.below(shape.pages),
                _ => hot[random.below(size) as usize],
            });
        }
    }
    trace
}

/// Eight streams upwards at speeds of their own, each page touched a few times, over parts of memory that two of them
/// come back to.
pub(super) fn streams(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let part = shape.pages / 8;
    let mut at = [0; 8];
    let touch = |_| {
        let stream = (random.below(8) & random.below(8)) as usize;
        at[stream] += u32::from(random.below(3) == 0);
        let length = if stream < 2 { shape.capacity / 2 } else { part };
        stream as u32 * part + at[stream] % length.min(part)
    };
    (0..shape.touches).map(touch).collect()
}

/// Touches by their distance in an LRU stack: exponential, `depth` of what memory holds on average.
pub(super) fn stack(shape: &Shape, random: &mut Random, depth: f64) -> Vec<u32> {
    let mut stack = scattered(shape.pages, random);
    let mean = f64::from(shape.capacity) * depth;
    let touch = |_| {
        let distance = (-(1.0 - random.unit()).ln() * mean) as usize;
        let at = stack.len() - 1 - distance.min(stack.len() - 1);
        let page = stack.remove(at);
        stack.push(page);
        page
    };
    (0..shape.touches).map(touch).collect()
}

/// Zipf, and now and then a scan of as much as memory holds.
pub(super) fn zipf_scans(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let zipf = Zipf::new(shape.pages, 0.99, random);
    let mut trace = Vec::with_capacity(shape.touches);
    while trace.len() < shape.touches {
        trace.extend((0..5 * shape.capacity).map(|_| zipf.page(random)));
        let start = random.below(shape.pages);
        trace.extend((0..shape.capacity).map(|at| (start + at) % shape.pages));
    }
    trace
}

/// Pages by Zipf's law, each touched 2 to 9 times among a few others.
pub(super) fn bursts(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let zipf = Zipf::new(shape.pages, 0.7, random);
    let mut open = [(0, 0); 16];
    let touch = |_| {
        let (page, left) = &mut open[random.below(16) as usize];
        if *left == 0 {
            (*page, *left) = (zipf.page(random), 2 + random.below(8));
        }
        *left -= 1;
        *page
    };
    (0..shape.touches).map(touch).collect()
}

/// Zipf whose ranks move on slowly.
pub(super) fn drift(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let zipf = Zipf::new(shape.pages, 0.9, random);
    let touch = |at: usize| {
        let moved = at / 40;
        zipf.scattered[(zipf.rank(random) + moved) % shape.pages as usize]
    };
    (0..shape.touches).map(touch).collect()
}

/// Walks from the root of a tree with 16 children a node to a leaf, by Zipf's law.
pub(super) fn tree(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let inner = shape.pages / 16;
    let zipf = Zipf::new(shape.pages - inner, 0.6, random);
    let mut trace = Vec::with_capacity(shape.touches + 8);
    while trace.len() < shape.touches {
        let leaf = zipf.page(random);
        let (mut node, first) = (leaf / 16, trace.len());
        trace.push(inner + leaf);
        while node > 0 {
            trace.push(node);
            node /= 16;
        }
        trace.push(0);
        trace[first..].reverse();
    }
    trace
}

/// All pages upwards, then downwards, and again.
pub(super) fn sawtooth(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let start = random.below(shape.pages);
    let up = (start..shape.pages).chain((0..shape.pages).rev());
    up.chain(0..shape.pages)
        .chain((0..shape.pages).rev())
        .cycle()
        .take(shape.touches)
        .collect()
}

/// A short loop and a long one, in turn at random.
pub(super) fn two_loops(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let short = shape.capacity / 2;
    let (mut near, mut far) = (0, 0);
    let touch = |_| {
        if random.below(3) > 0 {
            near = (near + 1) % short;
            return near;
        }
        far = (far + 1) % (shape.pages - short);
        short + far
    };
    (0..shape.touches).map(touch).collect()
}

/// A working set of a third of what memory holds that wanders, and one touch in ten anywhere.
pub(super) fn walk(shape: &Shape, random: &mut Random) -> Vec<u32> {
    let near = shape.capacity / 3;
    let mut at = 0;
    let touch = |_| {
        at += u32::from(random.below(8) == 0);
        match random.below(10) {
            0 => random.below(shape.pages),
            _ => (at + (random.below(near) + random.below(near)) / 2) % shape.pages,
        }
    };
    (0..shape.touches).map(touch).collect()
}
