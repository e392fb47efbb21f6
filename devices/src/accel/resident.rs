//! Commands of accelerators that do not fault: operands are all there before a command begins, and stay until it ends.

use std::sync::atomic::Ordering;

use gmem_core::page::{PAGE_SIZE, PageNo};

use super::chunk::kind;
use super::command::{Command, CommandError};
use super::mmu::{Access, Format};
use super::processor::{Processor, size, span};

/// How often operands are brought anew because they do not stay together: others want them, or their room.
const ATTEMPTS: usize = 1000;

/// A range of bytes that a command accesses.
type Operand = (u64, u64, Access);

impl<F: Format> Processor<F> {
    /// Carries a command out with all of its operands in the accelerator's reach from before its beginning to its end.
    pub(super) fn execute_resident(&mut self, command: Command) -> Result<u64, CommandError> {
        let operands = operands(&command)?;
        let granule = F::granule() * PAGE_SIZE as u64;
        let granules = |(address, len, _): &Operand| {
            let end = address.saturating_add(*len);
            (*len > 0).then(|| end.div_ceil(granule) - address / granule)
        };
        let bytes = operands.iter().filter_map(granules).sum::<u64>() * granule;
        if bytes > self.memory.bytes() {
            return Err(CommandError::TooLarge {
                name: F::NAME,
                bytes,
                memory: self.memory.bytes(),
            });
        }
        let mut first = 0;
        for _ in 0..ATTEMPTS {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CommandError::Stopped);
            }
            self.unit.hold();
            let missing = self.missing(&operands);
            if missing.is_empty() {
                let result = self.carry_out(command);
                self.unit.release();
                return result;
            }
            // Nothing is held while others may have to let go.
            self.unit.release();
            first = missing[0].0.address();
            for (page, access) in missing {
                self.attachment.bring(page, kind(access))?;
            }
        }
        Err(CommandError::Thrashing(first))
    }

    /// The granules that are not in reach, by a page of each.
    fn missing(&mut self, operands: &[Operand]) -> Vec<(PageNo, Access)> {
        let (root, granule) = (self.context.root(), F::granule());
        let mut inside = self.unit.enter();
        let mut missing = Vec::new();
        for (address, len, access) in operands.iter().filter(|(_, len, _)| *len > 0) {
            let last = (address + (len - 1)) / PAGE_SIZE as u64;
            let first = address / PAGE_SIZE as u64 / granule * granule;
            for page in (first..=last).step_by(granule as usize).map(PageNo) {
                if inside
                    .translate::<F>(&*self.memory, root, page, *access)
                    .is_err()
                {
                    missing.push((page, *access));
                }
            }
        }
        missing
    }
}

/// What a command accesses, none of it beyond the last address.
fn operands(command: &Command) -> Result<Vec<Operand>, CommandError> {
    use Access::{Atomic, Read, Write};
    let all = match *command {
        Command::Nop | Command::Advise { .. } => vec![],
        Command::Fill { to, len, .. } => vec![(to, len, Write)],
        Command::Copy { from, to, len } => vec![(from, len, Read), (to, len, Write)],
        Command::AtomicAdd { at, .. } => vec![(at, 8, Atomic)],
        Command::AtomicAdds {
            at, count, stride, ..
        } => vec![(at, span(at, count, stride)?, Atomic)],
        Command::Saxpy { x, y, len, .. } => vec![(x, len, Read), (y, len, Write)],
        Command::Sum { from, len } | Command::Reduce { from, len } => vec![(from, len, Read)],
        Command::Gather {
            table,
            rows,
            indices,
            count,
            to,
        } => vec![
            (table, size(table, rows.count, rows.bytes)?, Read),
            (indices, size(indices, count, 4)?, Read),
            (to, size(to, count, rows.bytes)?, Write),
        ],
        Command::Gemm {
            shape,
            element,
            a,
            b,
            c,
        } => {
            let area = |at, rows: usize, columns: usize, each| {
                size(at, size(at, rows as u64, columns as u64)?, each)
            };
            vec![
                (a, area(a, shape.m, shape.k, element.bytes())?, Read),
                (b, area(b, shape.k, shape.n, element.bytes())?, Read),
                (c, area(c, shape.m, shape.n, 4)?, Write),
            ]
        }
        Command::Attention {
            query,
            keys,
            values,
            tokens,
            width,
            out,
            ..
        } => vec![
            (query, width, Read),
            (keys, size(keys, tokens, width)?, Read),
            (values, size(values, tokens, width)?, Read),
            (out, width, Write),
        ],
    };
    match all
        .iter()
        .find(|(at, len, _)| at.checked_add(*len).is_none())
    {
        Some(&(address, len, _)) => Err(CommandError::Wraps { address, len }),
        None => Ok(all),
    }
}
