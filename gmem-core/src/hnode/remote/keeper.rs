//! A thread that looks after a tier's holders: takes answers that nobody waits for, connects again, and gives a holder that has
//! come back what it lacks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pager_wire::{MAX_PAGES, PAGE_LEN};

use super::Shared;
use crate::hnode::Frame;
use crate::pager::holder::Verb;

/// How often it looks.
pub(super) const TICK: Duration = Duration::from_millis(20);

pub(super) fn run(shared: &Shared) {
    let mut next = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        for holder in &shared.holders {
            holder.tend();
        }
        shared.notice_new_lives();
        {
            let mut flight = shared.flight();
            flight.reap(&shared.holders, &shared.marks);
            let until = shared.patience();
            flight.send_again(&shared.holders, &shared.marks, until);
            flight.send_frees(&shared.holders, &shared.marks, until);
        }
        let busy = shared.marks.is_lacking() && shared.mirror_some(&mut next);
        if !busy {
            std::thread::park_timeout(TICK);
        }
    }
}

impl Shared {
    /// A holder that has begun a new life has nothing of what it had.
    fn notice_new_lives(&self) {
        for (at, holder) in self.holders.iter().enumerate() {
            let life = holder.health().life;
            if life != self.lives[at].load(Ordering::Relaxed) {
                // With the flight held: an answer of the old life is not taken for one of the new.
                let _flight = self.flight();
                self.marks.lost(at);
                self.lives[at].store(life, Ordering::Release);
                self.troubles.lives.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Gives holders the pages that they lack and another has, as many as go into one request, from frame `next` on; returns whether it
    /// found any.
    fn mirror_some(&self, next: &mut u64) -> bool {
        let all = self.marks.len();
        let up = (0..self.holders.len())
            .filter(|it| self.takes(*it))
            .fold(0_u8, |mask, it| mask | 1 << it);
        // Set again by whoever finds out meanwhile.
        self.marks.look();
        let mut lacking: Vec<Frame> = Vec::new();
        let mut to = 0;
        let everybody = self
            .holders
            .iter()
            .zip(0..)
            .fold(0_u8, |mask, (_, it)| mask | 1 << it);
        let mut away = false;
        for step in 0..all {
            let frame = (*next + step) % all;
            let mark = self.marks.get(frame);
            if mark.version == 0 || mark.holders == 0 {
                continue;
            }
            let lacks = up & !mark.holders;
            away |= everybody & !mark.holders != 0;
            if lacks == 0 {
                continue;
            }
            let first = lacks.trailing_zeros() as usize;
            if lacking.is_empty() {
                to = first;
            }
            if lacks & 1 << to != 0 && self.flight().get(frame).is_none() {
                lacking.push(Frame(frame));
            }
            if lacking.len() == MAX_PAGES {
                break;
            }
        }
        let Some(last) = lacking.last() else {
            // Those that are away are looked at again when they are back.
            self.marks.looked(away && up != everybody);
            return false;
        };
        *next = (last.0 + 1) % all;
        self.marks.looked(true);
        self.mirror(&lacking, to)
    }

    /// Copies pages, as they are sealed, to a holder.
    fn mirror(&self, frames: &[Frame], to: usize) -> bool {
        let life = self.lives[to].load(Ordering::Acquire);
        let mut bytes = vec![0; frames.len() * PAGE_LEN];
        let until = self.patience();
        for from in (0..self.holders.len()).filter(|it| *it != to && self.holders[*it].health().up)
        {
            let wanted: Vec<_> = frames.iter().map(|frame| self.wanted(*frame)).collect();
            let mut found = Vec::new();
            let read = self.holders[from]
                .start(Verb::Read, &wanted, &[], until)
                .and_then(|ticket| {
                    self.holders[from].finish(ticket, &mut found, &mut bytes, until)
                });
            if read.is_err() || found.len() != wanted.len() {
                continue;
            }
            // Only what is right is passed on; opened in a copy, because it goes on as it is.
            let mut opened = bytes.clone();
            let right: Vec<usize> = (0..wanted.len())
                .filter(|&at| {
                    let (number, version) = (wanted[at].number.get(), wanted[at].version.get());
                    let plain = &mut opened[at * PAGE_LEN..][..PAGE_LEN];
                    self.sealer.open(number, version, &found[at], plain)
                })
                .collect();
            if right.is_empty() {
                continue;
            }
            let pages: Vec<_> = right.iter().map(|&at| found[at]).collect();
            let bytes: Vec<u8> = right
                .iter()
                .flat_map(|&at| &bytes[at * PAGE_LEN..][..PAGE_LEN])
                .copied()
                .collect();
            let written = self.holders[to]
                .start(Verb::Write, &pages, &bytes, until)
                .and_then(|ticket| {
                    self.holders[to].finish(ticket, &mut Vec::new(), &mut [], until)
                });
            if written.is_err() || self.holders[to].health().life != life {
                return false;
            }
            for page in &pages {
                self.marks.held(page.number.get(), page.version.get(), to);
            }
            self.troubles
                .mirrored_again
                .fetch_add(pages.len() as u64, Ordering::Relaxed);
            return true;
        }
        false
    }
}
