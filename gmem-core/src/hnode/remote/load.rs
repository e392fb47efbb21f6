//! Pages come back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pager_wire::{MAX_PAGES, PAGE_LEN, Page};
use zerocopy::FromZeros;

use super::{OnFailure, Shared};
use crate::hnode::{Frame, LoadError};
use crate::page::PAGE_SIZE;
use crate::pager::holder::{HolderError, Ticket, Verb};

/// How long one holder is waited for where another has the pages too.
const HEDGE: Duration = Duration::from_millis(1000);
/// How long to wait before all are asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// Why a page has not come, from one holder.
enum Miss {
    /// It may come another time.
    Later(HolderError),
    /// It came as something else, or the holder says that it has none.
    Wrong(usize),
    /// Nobody has it.
    Nowhere,
}

impl Shared {
    /// Fills `into` with what is in `frames`.
    pub(super) fn load(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        let mut missing: Vec<usize> = Vec::new();
        for (at, (frame, bytes)) in frames
            .iter()
            .zip(into.chunks_exact_mut(PAGE_SIZE))
            .enumerate()
        {
            if !self.load_near(*frame, bytes) {
                missing.push(at);
            }
        }
        for part in missing.chunks(MAX_PAGES) {
            self.load_far(frames, part, into)?;
        }
        Ok(())
    }

    /// Fills `into` with a page that is still here, or here already.
    fn load_near(&self, frame: Frame, into: &mut [u8]) -> bool {
        let version = self.marks.get(frame.0).version;
        {
            let flight = self.flight();
            if let Some((page, bytes)) = flight.get(frame.0)
                && page.version.get() == version
            {
                let page = *page;
                into.copy_from_slice(bytes);
                drop(flight);
                return self.sealer.open(frame.0, version, &page, into);
            }
        }
        let found = self
            .announced
            .take(frame.0, into, self.late(), &self.holders);
        found.is_some_and(|page| self.sealer.open(frame.0, version, &page, into))
    }

    /// Fills those pages of `into` at `part` that are elsewhere.
    fn load_far(&self, frames: &[Frame], part: &[usize], into: &mut [u8]) -> Result<(), LoadError> {
        let begun = Instant::now();
        let mut left: Vec<usize> = part.to_vec();
        loop {
            let missed = self.ask_all(frames, &mut left, into);
            if left.is_empty() {
                return Ok(());
            }
            self.troubles.retries.fetch_add(1, Ordering::Relaxed);
            let (why, lost) = match missed {
                Some(Miss::Later(error)) => (error.to_string(), false),
                Some(Miss::Wrong(holder)) => {
                    let name = self.holders[holder].name();
                    (format!("{name} has another page, or none"), true)
                }
                Some(Miss::Nowhere) | None => ("no holder has it any more".into(), true),
            };
            let late = begun.elapsed() >= self.options.deadline;
            let fails = lost || self.options.on_failure == OnFailure::Fail;
            if late && fails || self.ending.load(Ordering::Relaxed) {
                let detail = format!(
                    "{why}; lost with {} others that were asked for, given up after {:.1?}",
                    left.len() - 1,
                    begun.elapsed()
                );
                return Err(LoadError::Damaged {
                    frame: frames[left[0]].0,
                    detail,
                });
            }
            std::thread::sleep(PAUSE);
            left.retain(|&at| {
                let bytes = &mut into[at * PAGE_LEN..][..PAGE_LEN];
                !self.load_near(frames[at], bytes)
            });
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    /// Asks the holders of the pages in turn; what came is in `left` no longer.
    fn ask_all(&self, frames: &[Frame], left: &mut Vec<usize>, into: &mut [u8]) -> Option<Miss> {
        let mut missed = None;
        let several = self.holders.len() > 1;
        for holder in 0..self.holders.len() {
            let has = |at: &usize| self.has(holder, frames[*at].0);
            let asked: Vec<usize> = left.iter().copied().filter(has).collect();
            if asked.is_empty() {
                continue;
            }
            let until = Instant::now()
                + match several {
                    true => self.longest().min(HEDGE),
                    false => self.longest(),
                };
            match self.ask(holder, frames, &asked, into, until) {
                Ok(came) => {
                    left.retain(|at| !came.contains(at));
                    if came.len() < asked.len() {
                        let wrong = (asked.len() - came.len()) as u64;
                        self.troubles
                            .refused_pages
                            .fetch_add(wrong, Ordering::Relaxed);
                        missed = Some(Miss::Wrong(holder));
                    }
                }
                Err(error) => missed = Some(Miss::Later(error)),
            }
            if left.is_empty() {
                return None;
            }
        }
        let away = || self.holders.iter().any(|it| !it.health().up);
        missed.or_else(|| match away() {
            true => Some(Miss::Later(HolderError::Down("a holder is away".into()))),
            false => Some(Miss::Nowhere),
        })
    }

    /// Whether a holder has what is in a frame, as far as is known.
    fn has(&self, holder: usize, frame: u64) -> bool {
        let known = self.holders[holder].health();
        known.life == self.lives[holder].load(Ordering::Acquire)
            && self.marks.get(frame).holders & 1 << holder != 0
    }

    /// Asks one holder; returns which pages came.
    fn ask(
        &self,
        holder: usize,
        frames: &[Frame],
        asked: &[usize],
        into: &mut [u8],
        until: Instant,
    ) -> Result<Vec<usize>, HolderError> {
        let pages: Vec<Page> = asked.iter().map(|&at| self.wanted(frames[at])).collect();
        let ticket = self.holders[holder].start(Verb::Read, &pages, &[], until)?;
        let (mut found, mut came) = (Vec::new(), Vec::with_capacity(asked.len()));
        let first = asked[0];
        let together = asked
            .iter()
            .zip(first..)
            .all(|(at, expected)| *at == expected);
        let len = asked.len() * PAGE_LEN;
        let mut apart = Vec::new();
        if together {
            let bytes = &mut into[first * PAGE_LEN..][..len];
            self.finish(holder, ticket, &mut found, bytes, until)?;
        } else {
            apart.resize(len, 0);
            self.finish(holder, ticket, &mut found, &mut apart, until)?;
        }
        for (i, (&at, page)) in asked.iter().zip(&found).enumerate() {
            let bytes = &mut into[at * PAGE_LEN..][..PAGE_LEN];
            if !together {
                bytes.copy_from_slice(&apart[i * PAGE_LEN..][..PAGE_LEN]);
            }
            if self
                .sealer
                .open(frames[at].0, pages[i].version.get(), page, bytes)
            {
                came.push(at);
            }
        }
        Ok(came)
    }

    fn finish(
        &self,
        holder: usize,
        ticket: Ticket,
        found: &mut Vec<Page>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<(), HolderError> {
        self.holders[holder].finish(ticket, found, into, until)
    }

    pub(super) fn wanted(&self, frame: Frame) -> Page {
        Page {
            number: frame.0.into(),
            version: self.marks.get(frame.0).version.into(),
            ..Page::new_zeroed()
        }
    }

    /// Asks for pages that somebody is about to want.
    pub(super) fn announce(&self, frames: &[Frame]) {
        let Some(holder) = (0..self.holders.len()).find(|it| self.holders[*it].health().up) else {
            return;
        };
        let wanted: Vec<Frame> = {
            let flight = self.flight();
            let here = |frame: &Frame| flight.get(frame.0).is_some() || self.announced.has(frame.0);
            let wanted = |frame: &&Frame| self.has(holder, frame.0) && !here(frame);
            frames.iter().filter(wanted).copied().collect()
        };
        for part in wanted.chunks(MAX_PAGES) {
            let pages: Vec<Page> = part.iter().map(|frame| self.wanted(*frame)).collect();
            match self.holders[holder].start(Verb::ReadAhead, &pages, &[], self.late()) {
                Ok(ticket) => self.announced.add(holder, pages, ticket, &self.holders),
                Err(_) => return,
            }
        }
    }
}
