//! An execution unit at work: commands on guest-physical addresses, in chunks of a page, fault and replay.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gmem_core::accel::Attachment;
use gmem_core::engine::DeviceError;
use gmem_core::hnode::local::LocalMemory as Hbm;
use gmem_core::page::{PAGE_SIZE, PageNo};

use super::hardware::{Context, Hardware};
use super::mmu::{Access, Format, Inside, Unit};
use super::work;

/// How often a chunk is begun anew because its operands do not stay together: others want their room.
const REPLAYS: usize = 10_000;

/// Something to do. Addresses are guest-physical, lengths bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// Fills with a pattern of 8 bytes, by the byte's distance from `to`.
    Fill {
        /// Where.
        to: u64,
        /// How much.
        len: u64,
        /// With what.
        pattern: u64,
    },
    /// Copies; the ranges must not overlap.
    Copy {
        /// Whence.
        from: u64,
        /// Where to.
        to: u64,
        /// How much.
        len: u64,
    },
    /// Adds to a word of 8 bytes, aligned, at once.
    AtomicAdd {
        /// Where.
        at: u64,
        /// What.
        value: u64,
    },
    /// `y[i] = a * x[i] + y[i]`, f32; all aligned to 4 bytes.
    Saxpy {
        /// The factor.
        a: f32,
        /// The one vector.
        x: u64,
        /// The other, and the result.
        y: u64,
        /// How much.
        len: u64,
    },
    /// The sum of the u64 in a range, modulo 2^64; aligned to 8 bytes.
    Sum {
        /// Where.
        from: u64,
        /// How much.
        len: u64,
    },
}

/// Why a command was not carried out, or not to its end: what was done of it is not undone.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An operand is not aligned to its elements.
    #[error("operand {address:#x} of {len} bytes: address and length must be multiples of {align}")]
    Misaligned {
        /// Its address.
        address: u64,
        /// Its length.
        len: u64,
        /// What they must be multiples of.
        align: u64,
    },
    /// An operand wraps around the end of addresses.
    #[error("operand {address:#x} of {len} bytes goes beyond the last address")]
    Wraps {
        /// Its address.
        address: u64,
        /// Its length.
        len: u64,
    },
    /// The ranges of a copy overlap.
    #[error("the ranges of a copy overlap: {from:#x} and {to:#x}, {len} bytes")]
    Overlap {
        /// Whence.
        from: u64,
        /// Where to.
        to: u64,
        /// How much.
        len: u64,
    },
    /// A page does not come.
    #[error(transparent)]
    Fault(#[from] DeviceError),
    /// Operands do not stay together for as long as a chunk takes.
    #[error("operands at {0:#x} do not stay in the accelerator's memory together; give it more")]
    Thrashing(u64),
    /// The address space is no longer attached.
    #[error("the accelerator's address space is gone")]
    Gone,
}

/// An execution unit, in one address space.
pub struct Processor<F: Format> {
    unit: Unit,
    context: Arc<Context<F>>,
    memory: Arc<Hbm>,
    attachment: Arc<Attachment>,
}

/// A part of a page, as the unit sees it.
#[derive(Clone, Copy)]
struct Part {
    page: PageNo,
    /// Bytes from the page's start.
    offset: usize,
    access: Access,
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
        })
    }

    /// Carries a command out. The answer is the old value of [`Command::AtomicAdd`], the sum of [`Command::Sum`], else 0.
    pub fn execute(&mut self, command: Command) -> Result<u64, CommandError> {
        match command {
            Command::Fill { to, len, pattern } => {
                check(to, len, 1)?;
                self.chunks([(to, Access::Write)], len, |memory, [to], done, len| {
                    let mut bytes = [0; PAGE_SIZE];
                    work::fill(&mut bytes[..len], pattern, done);
                    memory.write(to, &bytes[..len]);
                })?;
            }
            Command::Copy { from, to, len } => {
                check(from, len, 1)?;
                check(to, len, 1)?;
                if from < to + len && to < from + len && len > 0 {
                    return Err(CommandError::Overlap { from, to, len });
                }
                let operands = [(from, Access::Read), (to, Access::Write)];
                self.chunks(operands, len, |memory, [from, to], _, len| {
                    let mut bytes = [0; PAGE_SIZE];
                    memory.read(from, &mut bytes[..len]);
                    memory.write(to, &bytes[..len]);
                })?;
            }
            Command::AtomicAdd { at, value } => {
                check(at, 8, 8)?;
                let mut old = 0;
                self.chunks([(at, Access::Atomic)], 8, |memory, [at], _, _| {
                    old = work::atomic_add(memory.word(at), value);
                })?;
                return Ok(old);
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
        }
        Ok(0)
    }

    /// Cuts operands of `len` bytes into chunks that lie in one page of each, and does `work` with where they lie in the
    /// accelerator's memory, how many bytes were done before, and how many these are. Once for each chunk.
    fn chunks<const N: usize>(
        &mut self,
        operands: [(u64, Access); N],
        len: u64,
        mut work: impl FnMut(&Hbm, [usize; N], u64, usize),
    ) -> Result<(), CommandError> {
        let mut done = 0;
        while done < len {
            let parts = operands.map(|(start, access)| Part {
                page: PageNo::of_address(start + done),
                offset: ((start + done) % PAGE_SIZE as u64) as usize,
                access,
            });
            let room = parts.iter().map(|part| PAGE_SIZE - part.offset).min();
            let count = (len - done).min(room.unwrap_or(PAGE_SIZE) as u64) as usize;
            self.chunk(&parts, |memory, at| work(memory, at, done, count))?;
            done += count as u64;
        }
        Ok(())
    }

    /// Does `work` once with all parts in reach at the same time.
    fn chunk<const N: usize>(
        &mut self,
        parts: &[Part; N],
        work: impl FnOnce(&Hbm, [usize; N]),
    ) -> Result<(), CommandError> {
        for _ in 0..REPLAYS {
            let missing = {
                let mut inside = self.unit.enter();
                let mut at = [0; N];
                let mut missing = None;
                for (part, at) in parts.iter().zip(&mut at) {
                    match find::<F>(&mut inside, &self.memory, self.context.root(), part) {
                        Some(found) => *at = found,
                        None => {
                            missing = Some(part.page);
                            break;
                        }
                    }
                }
                let Some(page) = missing else {
                    work(&self.memory, at);
                    return Ok(());
                };
                page
            };
            // Outside: what brings the page may have to take others away.
            self.attachment.fault(missing)?;
        }
        Err(CommandError::Thrashing(parts[0].page.address()))
    }
}

/// Where a part lies in the accelerator's memory; `None` if it does not.
fn find<F: Format>(
    inside: &mut Inside<'_, AtomicU64>,
    memory: &Hbm,
    root: u64,
    part: &Part,
) -> Option<usize> {
    let found = inside
        .translate::<F>(memory, root, part.page, part.access)
        .ok()?;
    Some(found.of(part.page).address as usize + part.offset)
}

/// Checks an operand before anything is done.
fn check(address: u64, len: u64, align: u64) -> Result<(), CommandError> {
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
