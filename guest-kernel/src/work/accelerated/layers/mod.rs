//! `layers`: a few rows go through layer after layer of weights that fill the memory, epoch after epoch. Each layer is
//! multiplied by all accelerators at the same time, each its own columns.

mod check;
mod rows;
mod weights;

pub(super) use weights::{Area, least, size};

use super::team::{Own, Team, Trouble, of};
use super::{Machine, Tally};
use crate::accel::xpu::WORK;
use crate::clock::cycles;
use crate::memory::PAGE_SIZE;
use crate::pattern::Mismatch;
use check::Sample;
use gmem_wire::gmem::advice;
use gmem_wire::xpu::op;
use rows::{Input, Rows};
use weights::{GROUP, Part};

/// What is multiplied, and how often.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) layers: u64,
    pub(super) rows: u64,
    pub(super) epochs: u64,
}

pub(super) fn run<'c, M: Machine>(
    team: &Team<'_, 'c, M>,
    own: &mut Own<'c, M>,
    shape: Shape,
    hints: bool,
    tally: &mut Tally,
) -> Option<()> {
    let crew = team.crew;
    let parts = team.accelerators() as u64;
    let size = size(team.layout.data_bytes(), shape.layers, parts);
    let rows = Rows::new(shape.rows, size);
    tally.accel.parts = shape.layers;
    tally.accel.weight_bytes = shape.layers * parts * size.bytes();
    tally.warmup_cycles += team.phase(tally, |_| {
        initialise(team, &rows, shape.layers);
        Ok(())
    })?;
    team.phase(tally, |tally| super::measure::run(team, own, tally))?;
    let groups = parts * size.columns / GROUP;
    for epoch in 0..shape.epochs {
        for layer in 0..shape.layers {
            let input = rows.input(team, epoch, layer);
            let last = epoch + 1 == shape.epochs && layer + 1 == shape.layers;
            let next = (hints && !last).then_some((layer + 1) % shape.layers);
            let work = (&rows, &input);
            tally.timed_cycles += team.phase(tally, |tally| {
                multiply(team, own, work, (layer, next), tally)
            })?;
            if epoch == 0 && shape.epochs > 1 {
                tally.accel.first_epoch_cycles = tally.timed_cycles;
            }
            if crew.cpu == 0 {
                tally.ops += 1;
            }
            team.phase(tally, |tally| {
                let of_part = size.columns / GROUP;
                let sample = Sample::new(crew.plan.seed, epoch, layer, of_part);
                let share = crew.share(groups, crew.cpu);
                check::check(team, work, layer, &sample, share, tally);
                Ok(())
            })?;
            if crew.line_due(cycles()) {
                crew.machine.line(format_args!(
                    "guest: layers epoch {}/{} layer {}/{}",
                    epoch + 1,
                    shape.epochs,
                    layer + 1,
                    shape.layers,
                ));
            }
        }
    }
    team.locate(own, tally)?;
    team.phase(tally, |tally| {
        compare(team, &rows, shape.layers, tally);
        Ok(())
    })?;
    Some(())
}

/// Calls `each` with a share of all parts of all layers.
fn for_each<M: Machine>(
    team: &Team<'_, '_, M>,
    rows: &Rows,
    layers: u64,
    share: usize,
    mut each: impl FnMut(Part),
) {
    let parts = team.accelerators() as u64;
    let share = share % team.crew.cpus;
    for number in team.crew.share(layers * parts, share) {
        let (layer, part) = (number / parts, (number % parts) as usize);
        each(Part::new(team, rows.size, layer, part));
    }
}

/// Writes this CPU's share of the weights.
fn initialise<M: Machine>(team: &Team<'_, '_, M>, rows: &Rows, layers: u64) {
    for_each(team, rows, layers, team.crew.cpu, |part| {
        for at in 0..rows.size.words() {
            team.ram.put64(part.address + 8 * at, part.word(at));
        }
    });
}

/// Compares another CPU's share of the weights with what they are.
fn compare<M: Machine>(team: &Team<'_, '_, M>, rows: &Rows, layers: u64, tally: &mut Tally) {
    for_each(team, rows, layers, team.crew.cpu + 1, |part| {
        for at in 0..rows.size.words() {
            let address = part.address + 8 * at;
            let (expected, found) = (part.word(at), team.ram.get64(address));
            if found != expected {
                tally.mismatch(Mismatch {
                    address,
                    expected,
                    found,
                });
            }
        }
        tally.compared += rows.size.bytes();
    });
}

/// One layer: this CPU's accelerators multiply their columns. What comes next is brought meanwhile.
fn multiply<M: Machine>(
    team: &Team<'_, '_, M>,
    own: &mut Own<'_, M>,
    (rows, input): (&Rows, &Input),
    (layer, next): (u64, Option<u64>),
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let which = layer % 2;
    for (number, xpu) in own.iter_mut().enumerate() {
        let Some(xpu) = xpu else { continue };
        rows.write(team, input, number, which);
        let size = rows.size;
        let part = |layer| Part::new(team, size, layer, number).address;
        let c = rows.result(team, number, which, (0, 0));
        let (x, weights) = (rows.x(team, number), part(layer));
        let args = [rows.count, size.columns, size.rows, x, weights, c];
        xpu.submit(WORK, op::GEMM_BF16, &args).map_err(of(number))?;
        if let Some(next) = next {
            // The other half is for what is being multiplied.
            let len = size.bytes().min(xpu.memory / 2).max(PAGE_SIZE);
            let hint = xpu.hint(part(next), len, advice::PREFETCH);
            hint.map_err(of(number))?;
        }
    }
    let start = cycles();
    for (number, xpu) in own.iter_mut().enumerate() {
        let Some(xpu) = xpu else { continue };
        let answer = xpu.wait(WORK).map_err(of(number))?;
        tally.accel.latencies.record(answer.cycles);
        // Nothing is brought in time that does not count.
        xpu.finish_hints().map_err(of(number))?;
    }
    tally.accel.waited_cycles += cycles().saturating_sub(start);
    Ok(())
}
