//! Batches of rows, from asking an accelerator to comparing what it found.

use super::super::layout::{GRANULE, SLOTS};
use super::super::team::{Shared, Team, Trouble, of};
use super::super::{Machine, Tally};
use super::law::{Law, Shape};
use super::{COUNTER, pattern};
use crate::accel::stream::DEPTH;
use crate::accel::xpu::{WORK, Xpu, carried_out};
use crate::math::random::Random;
use crate::memory::PAGE_SIZE;
use crate::pattern::Mismatch;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use gmem_wire::xpu::op;

/// What a ticket stands for that is no batch's.
const ADDITION: u8 = u8::MAX;
/// Additions that wait for room; more, and batches wait for them.
const BACKLOG: u64 = DEPTH;

/// A batch in flight.
#[derive(Clone, Copy, Default)]
struct Batch {
    /// 0 if there is none.
    rows: u64,
    /// Of its indices.
    sum: u64,
}

/// What a CPU knows of an accelerator that it drives.
#[derive(Clone, Copy)]
pub(super) struct Desk {
    batches: [Batch; SLOTS],
    /// What the tickets in flight stand for: a slot, or an addition.
    sent: [u8; DEPTH as usize],
    /// Additions that it owes, in parts of 200.
    owed: u64,
}

/// A desk with nothing on it.
pub(super) const NOTHING: Desk = Desk {
    batches: [Batch { rows: 0, sum: 0 }; SLOTS],
    sent: [0; DEPTH as usize],
    owed: 0,
};
/// Half of the writes are the accelerators', of a hundred.
pub(super) const PART: u64 = 200;

/// Where the indices and the results of a slot are.
fn places<M: Machine>(team: &Team<'_, '_, M>, law: &Law, number: usize, slot: usize) -> (u64, u64) {
    let Shape { row, batch, .. } = law.shape;
    let indices = (4 * batch).next_multiple_of(GRANULE);
    let results = (row * batch).next_multiple_of(GRANULE);
    let at = team.layout.area(number) + (indices + results) * slot as u64;
    (at, at + indices)
}

/// Sends what there is room for; whether there was any.
pub(super) fn fill<M: Machine>(
    team: &Team<'_, '_, M>,
    law: &Law,
    (number, xpu): (usize, &mut Xpu<'_, M>),
    desk: &mut Desk,
    random: &mut Random,
    tally: &mut Tally,
) -> Result<bool, Trouble> {
    let mut sent = false;
    while desk.owed >= PART && xpu.in_flight(WORK) < DEPTH {
        let (page, _) = law.draw(random);
        let at = team.layout.data + page * PAGE_SIZE + 8 * COUNTER as u64;
        let ticket = xpu
            .submit(WORK, op::ATOMIC_ADD, &[at, 1])
            .map_err(of(number))?;
        desk.sent[(ticket % DEPTH) as usize] = ADDITION;
        desk.owed -= PART;
        tally.writes += 1;
        sent = true;
    }
    let free = desk.batches.iter().position(|batch| batch.rows == 0);
    let (Some(slot), true) = (free, xpu.in_flight(WORK) < DEPTH) else {
        return Ok(sent);
    };
    if desk.owed >= BACKLOG * PART {
        return Ok(sent);
    }
    let rows = claim(team, law.shape.batch);
    if rows == 0 {
        return Ok(sent);
    }
    let (indices, results) = places(team, law, number, slot);
    let (mut sum, mut word) = (0u64, 0);
    for at in 0..rows {
        let (page, place) = law.draw(random);
        let index = page * (law.rows + 1) + place;
        word |= index << (at % 2 * 32);
        if at % 2 == 1 || at + 1 == rows {
            team.ram.put64(indices + at / 2 * 8, word);
            sum = sum.rotate_left(5) ^ word;
            word = 0;
        }
    }
    let table = team.layout.data;
    let all = team.layout.data_pages * (law.rows + 1);
    let args = [table, all, law.shape.row, indices, rows, results];
    let ticket = xpu.submit(WORK, op::GATHER, &args).map_err(of(number))?;
    desk.sent[(ticket % DEPTH) as usize] = slot as u8;
    desk.batches[slot] = Batch { rows, sum };
    desk.owed += rows * team.crew.plan.write_percent;
    Ok(true)
}

/// Takes up to `most` of the rows that are left to look up.
fn claim<M: Machine>(team: &Team<'_, '_, M>, most: u64) -> u64 {
    let mut rows = 0;
    // Never refused.
    let _ = team
        .shared(Shared::Left)
        .fetch_update(AcqRel, Acquire, |left| {
            rows = left.min(most);
            Some(left - rows)
        });
    team.shared(Shared::Begun).fetch_add(rows, Relaxed);
    rows
}

/// Takes the answers that are there; whether there was any.
pub(super) fn collect<M: Machine>(
    team: &Team<'_, '_, M>,
    law: &Law,
    (number, xpu): (usize, &mut Xpu<'_, M>),
    desk: &mut Desk,
    tally: &mut Tally,
) -> Result<bool, Trouble> {
    let mut came = false;
    while let Some(answer) = xpu.poll(WORK).map_err(of(number))? {
        carried_out(&answer).map_err(of(number))?;
        tally.accel.latencies.record(answer.cycles);
        came = true;
        let slot = usize::from(desk.sent[(answer.ticket % DEPTH) as usize]);
        if let Some(batch) = desk.batches.get_mut(slot) {
            compare(team, law, places(team, law, number, slot), *batch, tally);
            tally.ops += batch.rows;
            batch.rows = 0;
        }
    }
    Ok(came)
}

/// Compares a batch's rows with the table's content, and spoils them, so that the next ones cannot be these.
fn compare<M: Machine>(
    team: &Team<'_, '_, M>,
    law: &Law,
    (indices, results): (u64, u64),
    batch: Batch,
    tally: &mut Tally,
) {
    let words = law.shape.row / 8;
    let mut sum = 0u64;
    for at in 0..batch.rows {
        let pair = team.ram.get64(indices + at / 2 * 8);
        if at % 2 == 0 {
            sum = sum.rotate_left(5) ^ pair;
        }
        let index = pair >> (at % 2 * 32) & u64::from(u32::MAX);
        let (page, place) = (index / (law.rows + 1), index % (law.rows + 1));
        if page >= team.layout.data_pages {
            // The sum says that it is none of those that were asked for.
            continue;
        }
        let pattern = pattern(team, page);
        for word in 0..words {
            let address = results + (at * words + word) * 8;
            let expected = pattern.word((place * words + word) as usize);
            let found = team.ram.word(address).swap(!expected, AcqRel);
            if found != expected {
                tally.mismatch(Mismatch {
                    address,
                    expected,
                    found,
                });
            }
        }
    }
    tally.compared += batch.rows * law.shape.row;
    if sum != batch.sum {
        // What the accelerator was asked for is not what it was to be asked for.
        tally.mismatch(Mismatch {
            address: indices,
            expected: batch.sum,
            found: sum,
        });
    }
}
