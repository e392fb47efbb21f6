//! What a command costs that does nothing, and one that has to bring a page: one after the other, so that both are measured in
//! the same circumstances.

use super::team::{Own, Team, Trouble, of};
use super::{Machine, Tally};
use crate::accel::xpu::WORK;
use crate::clock::cycles;
use crate::math::histogram::Histogram;
use crate::memory::PAGE_SIZE;
use core::sync::atomic::Ordering::AcqRel;
use gmem_wire::xpu::op;

/// Commands of each kind.
const COUNT: u64 = 1000;
/// What it may take, microseconds.
const LIMIT_US: u64 = 2_000_000;
/// Pages from one to the next that is touched: more than come together.
const STRIDE: u64 = 16;

/// Measures accelerator 0, on the CPU that drives it. The data stays what it is.
#[inline(never)]
pub(super) fn run<M: Machine>(
    team: &Team<'_, '_, M>,
    own: &mut Own<'_, M>,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let (Some(xpu), 0) = (&mut own[0], team.crew.cpu) else {
        return Ok(());
    };
    let mut nops = Histogram::new();
    let mut faults = Histogram::new();
    let (start, limit) = (cycles(), team.crew.frequency.cycles(LIMIT_US));
    for round in 0..COUNT {
        let nop = xpu.ask(WORK, op::NOP, &[]).map_err(of(0))?;
        nops.record(nop.cycles);
        let page = round * STRIDE % team.layout.data_pages;
        let at = team.layout.data + page * PAGE_SIZE;
        // An addition of nothing: the page is here now, and has to go there.
        team.ram.word(at).fetch_add(0, AcqRel);
        let fault = xpu.ask(WORK, op::ATOMIC_ADD, &[at, 0]).map_err(of(0))?;
        faults.record(fault.cycles);
        if cycles().saturating_sub(start) > limit {
            break;
        }
    }
    tally.accel.nop_cycles = nops.percentile(500);
    tally.accel.fault_cycles = faults.percentile(500);
    Ok(())
}
