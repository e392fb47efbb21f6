//! Streams of touches at even distances: scans upwards and downwards, strides of any length, several at once.
//!
//! A touch begins nothing by itself and brings in one page. Two neighbouring touches, or three at the same distance, make a
//! stream; each touch just where a stream would go on widens its window fourfold, up to 64 pages. So an unpredictable touch
//! brings in nothing but its page, and a stream faults once a window. Touches that lie at even distances by chance make streams
//! too, which nothing continues: where that happens often, a stream has to go on once before anything comes along.
//!
//! What the stream that an accessor follows most has for a stride is its *trend*. A touch that belongs to no stream is
//! followed along the trend, as long as that proves right: a stride that comes to the end of an array begins it again elsewhere.
//! The trend is a majority vote over the latest touches (H. Al Maruf, M. Chowdhury, "Effectively Prefetching Remote Memory
//! with Leap", USENIX ATC 2020), that a stream has to be confirmed by a touch where it goes on is older (Linux' readahead).

mod far;

use super::{Plan, Prefetch};
use crate::page::{CLUSTER_PAGES, PageNo};

const STREAMS: usize = 16;
/// Touches that belong to no stream yet, which three at even distances are looked for among.
const LONE: usize = 8;
/// How many touches later a touch is forgotten that belongs to no stream, as a neighbour and else, and a stream that nothing
/// continued.
const FORGET_NEIGHBOUR: u64 = 4;
const FORGET_LONE: u64 = 32;
const FORGET_STREAM: u64 = 128;
/// The longest window, pages.
const WINDOW: u64 = CLUSTER_PAGES as u64;
/// How many steps beyond the expected page a touch still belongs to its stream: those between may be there already.
const SLACK: i64 = 4;
/// The longest stride that counts as one, pages.
const LONGEST: i64 = 1 << 15;
/// Votes for a trend that are remembered at most, and how many it takes to follow it: one for each page of a window that
/// proved right.
const VOTES: u64 = 2 * WINDOW;
const MAJORITY: u64 = 16;
/// First window of a stream, pages.
const FIRST: u64 = 4;
/// How many guesses may fail in a row before they are believed no more.
const CREDIT: u8 = 4;
/// After how many lone touches another suggestion is tried all the same.
const AGAIN: u32 = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// The latest touch.
    last: i64,
    /// Pages from one touch to the next, never 0 in a stream that is in use.
    stride: i64,
    /// Pages planned by the latest touch, its own included.
    window: u64,
    /// Pages of that window that came along, with the latest touch or ahead of it.
    brought: u64,
    /// The window came ahead of its touch, at least in part.
    came_ahead: bool,
    /// A page of it was touched that was still on its way, or has left again.
    late: bool,
    /// The next window has been handed out, and so many pages of it came.
    going: Option<u64>,
    /// So far it was foretold: the page after that.
    told: Option<i64>,
    begun_at: u64,
    used_at: u64,
    /// What it is but a guess of, so far.
    guess: Option<Guess>,
}

/// Why a stream is believed in that has not gone on yet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Guess {
    /// Touches at even distances.
    Distance,
    /// The trend.
    Trend,
}

/// Streams of one accessor.
#[derive(Debug, Default)]
pub struct Streams {
    streams: [Stream; STREAMS],
    /// Each with the number of its touch.
    lone: [(i64, u64); LONE],
    lones: usize,
    now: u64,
    /// Which stream the latest plan was for.
    latest: Option<usize>,
    /// The latest touch was where that stream was expected to go on.
    expected: bool,
    used: u64,
    distances: Belief,
    trend: Trend,
}

impl Stream {
    /// How many steps of this stream lead to `page`: at least 1, at most a little more than were planned.
    fn steps_to(&self, page: i64) -> Option<i64> {
        if self.stride == 0 {
            return None;
        }
        let windows = if self.going.is_some() { 2 } else { 1 };
        let (distance, most) = (page - self.last, self.window as i64 * windows + SLACK);
        let steps = distance / self.stride;
        let even = steps * self.stride == distance;
        (even && (1..=most).contains(&steps)).then_some(steps)
    }
}

impl Streams {
    /// The stream that a touch of `page` continues.
    fn continued(&mut self, page: i64) -> Option<usize> {
        let (at, steps) = self
            .streams
            .iter()
            .enumerate()
            .filter(|(_, stream)| self.now - stream.used_at <= FORGET_STREAM)
            .find_map(|(at, stream)| Some((at, stream.steps_to(page)?)))?;
        let stream = &mut self.streams[at];
        let planned = stream.window as i64;
        self.expected = steps >= planned;
        if !self.expected {
            // It was planned, and is not there. Once in a window that came ahead it may still be on its way.
            let patient = stream.came_ahead && !stream.late;
            stream.late = true;
            if !patient {
                // Or no more: too much at once.
                *stream = Stream {
                    window: (stream.window / 2).max(1),
                    came_ahead: false,
                    going: None,
                    brought: 0,
                    last: page,
                    ..*stream
                };
            }
            return Some(at);
        }
        self.used += stream.brought;
        self.trend.confirm(stream.stride, stream.window);
        if steps == planned {
            stream.window = (stream.window * 4).min(WINDOW);
        }
        match stream.guess.take() {
            Some(Guess::Distance) => self.distances.right(),
            Some(Guess::Trend) => self.trend.belief.right(),
            None => {}
        }
        Some(at)
    }

    /// The stride of a stream that `page` makes with touches before it.
    fn begun(&self, page: i64) -> Option<i64> {
        let lone = |age: usize| self.lone[(self.lones - 1 - age) % LONE].0;
        let touched_at = |age: usize| self.lone[(self.lones - 1 - age) % LONE].1;
        let recent = |age: &usize| self.now - touched_at(*age) <= FORGET_LONE;
        let known = (0..self.lones.min(LONE)).take_while(recent).count();
        (0..known).find_map(|age| {
            let stride = page - lone(age);
            // Where a lap of strides ends soon, the next one begins beside its first touch.
            let neighbours = stride.abs() == 1 && self.now - touched_at(age) <= FORGET_NEIGHBOUR;
            let even = || (age + 1..known).any(|older| lone(older) == page - 2 * stride);
            let counts = (1..=LONGEST).contains(&stride.abs());
            (counts && (neighbours || even())).then_some(stride)
        })
    }

    /// Puts a guess in the place of a stream that is forgotten, or of another guess, the oldest first; returns where.
    fn begin(&mut self, stride: i64, window: u64, guess: Guess) -> usize {
        let oldest = self.streams.iter().enumerate();
        let at = oldest
            .min_by_key(|(_, stream)| {
                let fresh = self.now - stream.used_at <= FORGET_STREAM;
                (fresh && stream.guess.is_none(), stream.used_at)
            })
            .map_or(0, |(at, _)| at);
        match self.streams[at].guess {
            Some(Guess::Distance) => self.distances.wrong(),
            Some(Guess::Trend) => self.trend.belief.wrong(),
            None => {}
        }
        self.streams[at] = Stream {
            stride,
            window,
            guess: Some(guess),
            begun_at: self.now,
            ..Stream::default()
        };
        at
    }
}

/// A window that was handed out ahead of the touches that it is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    stream: usize,
    begun_at: u64,
    first: i64,
}

impl Streams {
    /// What to bring after the latest touch has been answered, while the accessor goes through the pages that are there: the
    /// window after the one that was planned with the touch, if that was of a stream which has proved right for long. Fills
    /// `plan`, which is empty.
    ///
    /// The first page of it is left out. Its touch is how one hears that the accessor has come so far.
    pub fn ahead(&mut self, plan: &mut Plan) -> Option<Window> {
        let stream = &mut self.streams[self.latest?];
        if !self.expected || stream.guess.is_some() || stream.window < WINDOW {
            return None;
        }
        if std::mem::take(&mut stream.late) {
            return None;
        }
        let next = stream.last + stream.window as i64 * stream.stride;
        let end = next + stream.window as i64 * stream.stride;
        fill(plan, next + stream.stride, end, stream.stride);
        stream.going = Some(0);
        Some(Window {
            stream: self.latest?,
            begun_at: stream.begun_at,
            first: next,
        })
    }

    /// So many pages of a window that was handed out came.
    pub fn brought_ahead(&mut self, window: Window, pages: u64) {
        let stream = &mut self.streams[window.stream];
        if stream.begun_at != window.begun_at {
            // That stream has been forgotten.
            return;
        }
        match &mut stream.going {
            Some(early) if stream.last != window.first => *early += pages,
            _ => stream.brought += pages,
        }
    }
}

impl Prefetch for Streams {
    fn plan(&mut self, touched: PageNo, plan: &mut Plan) {
        let page = touched.0 as i64;
        self.now += 1;
        self.expected = false;
        self.latest = self.continued(page).or_else(|| {
            if let Some((stride, window)) = self.trend.suggestion() {
                return Some(self.begin(stride, window, Guess::Trend));
            }
            if let Some(stride) = self.begun(page) {
                let window = if self.distances.holds() { FIRST } else { 1 };
                return Some(self.begin(stride, window, Guess::Distance));
            }
            self.lone[self.lones % LONE] = (page, self.now);
            self.lones += 1;
            None
        });
        let Some(at) = self.latest else { return };
        let stream = &mut self.streams[at];
        stream.used_at = self.now;
        if self.expected || stream.guess.is_some() {
            let early = stream.going.take();
            stream.brought = early.unwrap_or(0);
            (stream.last, stream.came_ahead) = (page, early.is_some());
        }
        let end = stream.last + stream.window as i64 * stream.stride;
        fill(plan, page, end, stream.stride);
    }

    fn brought(&mut self, pages: u64) {
        if let Some(at) = self.latest {
            self.streams[at].brought += pages;
        }
    }

    fn take_used(&mut self) -> u64 {
        std::mem::take(&mut self.used)
    }
}

/// Adds every page from `page` to before `end`, in steps of `stride`.
fn fill(plan: &mut Plan, page: i64, end: i64, stride: i64) {
    for step in 0..(end - page) / stride {
        // Past the end of memory there is nothing; the engine knows where that is.
        match u64::try_from(page + step * stride) {
            Ok(page) if plan.add(PageNo(page)) => {}
            _ => break,
        }
    }
}

/// How often a kind of guess proves right.
#[derive(Debug)]
struct Belief {
    /// Guesses that may still fail.
    credit: u8,
    /// Guesses that proved right since one failed.
    right: u8,
}

impl Default for Belief {
    fn default() -> Self {
        Self {
            credit: CREDIT,
            right: 0,
        }
    }
}

impl Belief {
    fn holds(&self) -> bool {
        self.credit > 0
    }

    fn right(&mut self) {
        self.credit = CREDIT;
        self.right = self.right.saturating_add(1);
    }

    fn wrong(&mut self) {
        self.credit = self.credit.saturating_sub(1);
        self.right = 0;
    }
}

/// The stride that most touches have in common.
#[derive(Debug, Default)]
struct Trend {
    stride: i64,
    votes: u64,
    belief: Belief,
    /// Lone touches since it was last believed.
    since: u32,
}

impl Trend {
    /// A stream of this stride went on, after a window of so many pages.
    fn confirm(&mut self, stride: i64, pages: u64) {
        if self.stride == stride {
            self.votes = (self.votes + pages).min(VOTES);
        } else if self.votes > pages {
            self.votes -= pages;
        } else {
            (self.stride, self.votes) = (stride, pages);
        }
    }

    /// A touch belongs to no stream: the stride to follow from it and how far, if that is likely to be right.
    fn suggestion(&mut self) -> Option<(i64, u64)> {
        let strong = self.votes >= MAJORITY;
        self.votes = self.votes.saturating_sub(1);
        if !self.belief.holds() {
            self.since += 1;
            if self.since < AGAIN {
                return None;
            }
        }
        self.since = 0;
        let window = FIRST << self.belief.right.min(4);
        strong.then_some((self.stride, window.min(WINDOW)))
    }
}

#[cfg(test)]
mod tests;
