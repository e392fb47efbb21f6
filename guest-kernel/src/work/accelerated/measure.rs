//! What a command costs that does nothing, and one that has to bring a page: one after the other, so that both are measured in
//! the same circumstances.

use super::team::{Own, Team, Trouble, of};
use super::{Machine, Tally};
use crate::accel::xpu::WORK;
use crate::clock::cycles;
use crate::math::histogram::Histogram;
use crate::memory::PAGE_SIZE;
use core::hint::black_box;
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
    let place = |round| team.layout.data + round * STRIDE % team.layout.data_pages * PAGE_SIZE;
    let mut rounds = 0;
    while rounds < COUNT {
        let nop = xpu.ask(WORK, op::NOP, &[]).map_err(of(0))?;
        nops.record(nop.cycles);
        let at = place(rounds);
        // An addition of nothing: the page is here now, and has to go there. A compiler that knew would leave it out.
        team.ram.word(at).fetch_add(black_box(0), AcqRel);
        let fault = xpu.ask(WORK, op::ATOMIC_ADD, &[at, 0]).map_err(of(0))?;
        faults.record(fault.cycles);
        rounds += 1;
        if cycles().saturating_sub(start) > limit {
            break;
        }
    }
    // What was brought for this, and came along, goes back: the workload finds an accelerator that has nothing.
    for page in 0..(rounds * STRIDE).min(team.layout.data_pages) {
        black_box(team.ram.get64(team.layout.data + page * PAGE_SIZE));
    }
    tally.accel.nop_cycles = nops.percentile(500);
    tally.accel.fault_cycles = faults.percentile(500);
    Ok(())
}
