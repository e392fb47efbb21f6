//! What a stream is about to want further on, for tiers that are far away: their answers take longer than a window lasts, so several
//! windows are asked for at once.

use super::{Plan, Streams, WINDOW, Window, fill};

/// Windows beyond the one that is brought ahead.
const BEYOND: i64 = 4;

impl Streams {
    /// Fills `plan`, which is empty, with at most a window of pages that the stream of `window` goes on to, and that were not foretold
    /// before: from the first page of that window on, which the accessor waits for, to four windows beyond it. False if there
    /// are no more.
    pub fn foretell(&mut self, window: Window, plan: &mut Plan) -> bool {
        let stream = &mut self.streams[window.stream];
        if stream.begun_at != window.begun_at || stream.stride == 0 {
            // That stream has been forgotten.
            return false;
        }
        let most = (1 + BEYOND) * WINDOW as i64;
        // A stream that has gone past what was foretold, or elsewhere, begins again.
        let told = stream
            .told
            .map(|told| (told - window.first) / stream.stride);
        let from = told.filter(|told| (0..=most).contains(told)).unwrap_or(0);
        let to = (from + WINDOW as i64).min(most);
        let page = |steps: i64| window.first + steps * stream.stride;
        fill(plan, page(from), page(to), stream.stride);
        stream.told = Some(page(to));
        from < to
    }
}
