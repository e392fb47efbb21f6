//! The floor's evictor: first in, first out.

use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::{Frame, Hnode};
use gmem_core::mmu::Obstacle;
use gmem_core::page::{PAGE_SIZE, Unit};

use super::{Bringing, Parts};
use crate::memory::reserve::Reservation;
use crate::memory::userfault::Waking;

/// How long it sleeps when there is nothing to do. It looks by itself: waking it would cost a fault. About as
/// many faults as a burst evicts fit in between.
const NAP: Duration = Duration::from_millis(4);
/// Parts of the budget below it at which a burst of evictions begins and ends: the engine's low and high
/// watermarks. Bursts, because each eviction interrupts the vCPU's CPU while the evictor runs, and each fault
/// the evictor's: a page at a time, evenly spread, would slow down most faults.
const LOW: u64 = 64;
const HIGH: u64 = 32;

/// Pages that leave together where they are copied.
pub(super) const AT_ONCE: usize = 64;

/// Keeps no more than `budget` pages resident until it is told to stop. `out` is where pages go that are copied.
pub(super) fn run(parts: &Parts, budget: u64, hbm: &Hbm, out: &Reservation) {
    let mut taken = 0;
    let mut queue = VecDeque::new();
    let mut copies: Vec<Option<Frame>> = vec![None; parts.slots.len() / PAGE_SIZE];
    while !parts.stop.load(Ordering::Relaxed) {
        while let Some(page) = parts.arrivals.take(taken) {
            queue.push_back(page);
            taken += 1;
        }
        let resident = queue.len() as u64;
        if resident <= budget - budget / LOW {
            thread::sleep(NAP);
            continue;
        }
        let excess = (resident - (budget - budget / HIGH)) as usize;
        let mut victims: VecDeque<u64> = queue.drain(..excess).collect();
        while !victims.is_empty() {
            let group: Vec<u64> = victims.drain(..victims.len().min(AT_ONCE)).collect();
            match parts.bringing {
                Bringing::Move => {
                    for page in group {
                        copy(parts, page, hbm, &mut copies);
                        if !expel(parts, page, parts.slot(page)) {
                            queue.push_back(page);
                        }
                    }
                }
                Bringing::Copy => {
                    for (at, page) in group.iter().enumerate() {
                        let to = out.start() + at * PAGE_SIZE;
                        parts.leaving[*page as usize].store(true, Ordering::SeqCst);
                        if expel(parts, *page, to) {
                            // SAFETY: the page has just arrived there, nobody else knows of it; the slot is read only
                            // when the page is no longer leaving.
                            unsafe {
                                let slot = parts.slot(*page) as *mut u8;
                                ptr::copy_nonoverlapping(to as *const u8, slot, PAGE_SIZE);
                            }
                        } else {
                            queue.push_back(*page);
                        }
                        parts.leaving[*page as usize].store(false, Ordering::Release);
                    }
                    let _ = out.discard(0, group.len() * PAGE_SIZE);
                }
            }
        }
    }
}

/// Moves a page out of the guest; false if it is busy.
fn expel(parts: &Parts, page: u64, to: usize) -> bool {
    let from = parts.page(page);
    let moved = parts
        .userfault
        .move_pages(to, from, PAGE_SIZE, Waking::Later);
    match moved.stopped {
        None => true,
        Some(Obstacle::Busy) => false,
        Some(obstacle) => {
            parts.failure.record(format_args!(
                "page {page} cannot be moved out: {obstacle:?}"
            ));
            true
        }
    }
}

/// Copies a page to HBM, while it is still in the guest: once it is in its slot a fault may take it away at
/// any moment, and only a lock on the fault path could prevent that. Nobody reads the copy; it is made for
/// its cost.
fn copy(parts: &Parts, page: u64, hbm: &Hbm, copies: &mut [Option<Frame>]) {
    let mut bytes = [0; PAGE_SIZE];
    if parts.ram.read(page * PAGE_SIZE as u64, &mut bytes).is_err() {
        return;
    }
    let copy = &mut copies[page as usize];
    if let Some(frame) = copy.take() {
        hbm.free(frame, Unit::Page);
    }
    *copy = hbm.store(&bytes).ok();
}
