//! The floor's evictor: first in, first out.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::{Frame, Hnode};
use gmem_core::mmu::Obstacle;
use gmem_core::page::{PAGE_SIZE, Unit};

use super::Parts;
use crate::memory::userfault::Waking;

/// How long it sleeps when there is nothing to do. It looks by itself: waking it would cost a fault. About as
/// many faults as a burst evicts fit in between.
const NAP: Duration = Duration::from_millis(4);
/// Parts of the budget below it at which a burst of evictions begins and ends: the engine's low and high
/// watermarks. Bursts, because each eviction interrupts the vCPU's CPU while the evictor runs, and each fault
/// the evictor's: a page at a time, evenly spread, would slow down most faults.
const LOW: u64 = 64;
const HIGH: u64 = 32;

/// Keeps no more than `budget` pages resident until it is told to stop.
pub(super) fn run(parts: &Parts, budget: u64, hbm: &Hbm) {
    let mut taken = 0;
    let mut queue = VecDeque::new();
    let mut copies: Vec<Option<Frame>> = vec![None; parts.slots.len() / PAGE_SIZE];
    while !parts.stop.load(Ordering::Relaxed) {
        while taken < parts.arrivals.count() {
            queue.push_back(parts.arrivals.get(taken));
            taken += 1;
        }
        let resident = queue.len() as u64;
        if resident <= budget - budget / LOW {
            thread::sleep(NAP);
            continue;
        }
        let excess = resident - (budget - budget / HIGH);
        for _ in 0..excess {
            let Some(page) = queue.pop_front() else { break };
            copy(parts, page, hbm, &mut copies);
            let moved = parts.userfault.move_pages(
                parts.slot(page),
                parts.page(page),
                PAGE_SIZE,
                Waking::Later,
            );
            match moved.stopped {
                None => {}
                Some(Obstacle::Busy) => queue.push_back(page),
                Some(obstacle) => parts.failure.record(format_args!(
                    "page {page} cannot be moved out: {obstacle:?}"
                )),
            }
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
