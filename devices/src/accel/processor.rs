//! An execution unit at work: commands on guest-physical addresses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gmem_core::accel::Attachment;
use gmem_core::hnode::local::LocalMemory as Hbm;
use gmem_core::page::PAGE_SIZE;

use super::command::{Command, CommandError};
use super::hardware::{Context, Hardware};
use super::mmu::{Access, Format, Unit};
use super::operand::HostMemory;
use super::work::{self, Rows};

/// An execution unit, in one address space.
pub struct Processor<F: Format> {
    pub(super) unit: Unit,
    pub(super) context: Arc<Context<F>>,
    pub(super) memory: Arc<Hbm>,
    pub(super) attachment: Arc<Attachment>,
    /// Set, the command under way ends at its next page.
    pub(super) stop: Arc<AtomicBool>,
    /// It faults; otherwise operands are all there before a command begins.
    pub(super) faults: Arc<AtomicBool>,
}

impl<F: Format> Processor<F> {
    /// An execution unit of `hardware` for the address space of `attachment`; `None` if all are taken.
    pub fn new(hardware: &Hardware<F>, attachment: &Arc<Attachment>) -> Option<Self> {
        let context = hardware.context(attachment.context())?;
        Some(Self {
            unit: context.take_unit()?,
            context,
            memory: Arc::clone(hardware.memory()),
            attachment: Arc::clone(attachment),
            stop: Arc::default(),
            faults: Arc::new(AtomicBool::new(true)),
        })
    }

    /// The same unit, which may use the guest's memory in place: it and all others of the accelerator in this address space.
    pub fn with_host(self, host: Arc<dyn HostMemory>) -> Self {
        self.context.let_reach(host);
        self
    }

    /// Carries a command out. The answer is the old value of [`Command::AtomicAdd`], the sum of [`Command::Sum`], the bits of
    /// that of [`Command::Reduce`], else 0.
    pub fn execute(&mut self, command: Command) -> Result<u64, CommandError> {
        match self.faults.load(Ordering::Relaxed) {
            true => self.carry_out(command),
            false => self.execute_resident(command),
        }
    }

    /// Whether operands come as it touches them, from the next command on; as they do at first. Otherwise all of them are
    /// brought before a command begins, and stay until it ends, or it does not begin.
    pub fn set_faults(&self, faults: bool) {
        self.faults.store(faults, Ordering::Relaxed);
    }

    pub(super) fn carry_out(&mut self, command: Command) -> Result<u64, CommandError> {
        match command {
            Command::Nop => {}
            Command::Advise {
                address,
                len,
                advice,
            } => {
                self.attachment.advise(address, len, advice)?;
            }
            Command::Fill { to, len, pattern } => {
                check(to, len, 1)?;
                self.chunks([(to, Access::Write)], len, |memory, [to], done, len| {
                    let mut bytes = [0; PAGE_SIZE];
                    work::fill(&mut bytes[..len], pattern, done);
                    memory.write(to, &bytes[..len]);
                })?;
            }
            Command::Copy { from, to, len } => {
                apart(from, len, to, len)?;
                self.copy(from, to, len)?;
            }
            Command::AtomicAdd { at, value } => {
                check(at, 8, 8)?;
                let mut old = 0;
                self.chunks([(at, Access::Atomic)], 8, |memory, [at], _, _| {
                    old = memory.atomic_add(at, value);
                })?;
                return Ok(old);
            }
            Command::AtomicAdds {
                at,
                count,
                stride,
                value,
            } => {
                check(at, span(at, count, stride)?, 8)?;
                for n in 0..count {
                    let word = [(at + n * stride, Access::Atomic)];
                    self.chunks(word, 8, |reachable, [at], _, _| {
                        reachable.atomic_add(at, value);
                    })?;
                }
            }
            Command::Saxpy { a, x, y, len } => {
                check(x, len, 4)?;
                check(y, len, 4)?;
                let operands = [(x, Access::Read), (y, Access::Write)];
                self.chunks(operands, len, |memory, [x, y], _, len| {
                    let (mut of_x, mut of_y) = ([0; PAGE_SIZE], [0; PAGE_SIZE]);
                    memory.read(x, &mut of_x[..len]);
                    memory.read(y, &mut of_y[..len]);
                    // Lengths are equal and whole elements.
                    let _ = work::saxpy(a, &of_x[..len], &mut of_y[..len]);
                    memory.write(y, &of_y[..len]);
                })?;
            }
            Command::Sum { from, len } => {
                check(from, len, 8)?;
                let mut sum = 0u64;
                self.chunks([(from, Access::Read)], len, |memory, [from], _, len| {
                    let mut bytes = [0; PAGE_SIZE];
                    memory.read(from, &mut bytes[..len]);
                    sum = sum.wrapping_add(work::sum_u64(&bytes[..len]).unwrap_or(0));
                })?;
                return Ok(sum);
            }
            Command::Reduce { from, len } => {
                check(from, len, 4)?;
                let mut sum = work::Sum::new();
                self.chunks([(from, Access::Read)], len, |memory, [from], _, len| {
                    let mut bytes = [0; PAGE_SIZE];
                    memory.read(from, &mut bytes[..len]);
                    // Whole elements.
                    let _ = sum.add(&bytes[..len]);
                })?;
                return Ok(u64::from(sum.total().to_bits()));
            }
            Command::Gather {
                table,
                rows,
                indices,
                count,
                to,
            } => self.gather(table, rows, indices, count, to)?,
            Command::Gemm {
                shape,
                element,
                a,
                b,
                c,
            } => self.gemm(shape, element, [a, b, c])?,
            Command::Attention {
                query,
                keys,
                values,
                tokens,
                width,
                scale,
                out,
            } => self.attention([query, keys, values, out], tokens, width, scale)?,
        }
        Ok(0)
    }

    /// Ends the command under way, and all later ones, when it is set.
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    fn copy(&mut self, from: u64, to: u64, len: u64) -> Result<(), CommandError> {
        let operands = [(from, Access::Read), (to, Access::Write)];
        self.chunks(operands, len, |memory, [from, to], _, len| {
            let mut bytes = [0; PAGE_SIZE];
            memory.read(from, &mut bytes[..len]);
            memory.write(to, &bytes[..len]);
        })
    }

    fn gather(
        &mut self,
        table: u64,
        rows: Rows,
        indices: u64,
        count: u64,
        mut to: u64,
    ) -> Result<(), CommandError> {
        let (in_table, in_indices) = (
            size(table, rows.count, rows.bytes)?,
            size(indices, count, 4)?,
        );
        let out = size(to, count, rows.bytes)?;
        check(indices, in_indices, 4)?;
        apart(table, in_table, to, out)?;
        apart(indices, in_indices, to, out)?;
        let mut done = 0;
        while done < in_indices {
            // As many as lie in a page: their rows are copied before the next ones are read.
            let at = indices + done;
            let part = (PAGE_SIZE as u64 - at % PAGE_SIZE as u64).min(in_indices - done);
            let mut names = [0; PAGE_SIZE];
            let names = &mut names[..part as usize];
            self.load(at, names, in_indices - done)?;
            for index in names.as_chunks().0 {
                let row = rows
                    .row(u32::from_le_bytes(*index))
                    .map_err(CommandError::Row)?;
                self.copy(table + row.start, to, rows.bytes)?;
                to += rows.bytes;
            }
            done += part;
        }
        Ok(())
    }
}

/// Checks that what is written does not overlap what is read.
pub(super) fn apart(from: u64, read: u64, to: u64, len: u64) -> Result<(), CommandError> {
    check(from, read, 1)?;
    check(to, len, 1)?;
    match from < to + len && to < from + read && read > 0 && len > 0 {
        true => Err(CommandError::Overlap {
            from,
            read,
            to,
            len,
        }),
        false => Ok(()),
    }
}

/// Checks an operand before anything is done.
pub(super) fn check(address: u64, len: u64, align: u64) -> Result<(), CommandError> {
    if !address.is_multiple_of(align) || !len.is_multiple_of(align) {
        return Err(CommandError::Misaligned {
            address,
            len,
            align,
        });
    }
    match address.checked_add(len) {
        Some(_) => Ok(()),
        None => Err(CommandError::Wraps { address, len }),
    }
}

/// Bytes from the first of `count` words, `stride` bytes apart, to the end of the last.
pub(super) fn span(at: u64, count: u64, stride: u64) -> Result<u64, CommandError> {
    check(at, stride, 8)?;
    match count.checked_sub(1) {
        None => Ok(0),
        // Nothing would end it.
        Some(1..) if stride == 0 => Err(CommandError::Misaligned {
            address: at,
            len: 0,
            align: 8,
        }),
        Some(steps) => Ok(size(at, steps, stride)?.saturating_add(8)),
    }
}

/// The bytes of `of` elements of `each` bytes.
pub(super) fn size(address: u64, of: u64, each: u64) -> Result<u64, CommandError> {
    let len = of.checked_mul(each);
    len.ok_or(CommandError::Wraps {
        address,
        len: u64::MAX,
    })
}
