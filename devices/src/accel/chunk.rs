//! A command's work in chunks of a page: all operands in reach at the same time, or fault and replay.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use gmem_core::accel;
use gmem_core::hnode::local::LocalMemory as Hbm;
use gmem_core::page::{PAGE_SIZE, PageNo};

use super::command::CommandError;
use super::mmu::{Access, Format, Inside};
use super::operand::{OPERANDS, Operand, Reachable};
use super::processor::Processor;

/// How often a chunk is begun anew because its operands do not stay together: others want their room.
const REPLAYS: usize = 10_000;

/// A part of a page, as the unit sees it.
#[derive(Clone, Copy)]
struct Part {
    page: PageNo,
    /// Bytes from the page's start.
    offset: usize,
    access: Access,
    /// Pages that the command accesses from this one on, itself included, as far as is known here.
    ahead: u64,
}

impl<F: Format> Processor<F> {
    /// Cuts operands of `len` bytes into chunks that lie in one page of each, and does `work` with where they lie, how many
    /// bytes were done before, and how many these are. Once for each chunk.
    pub(super) fn chunks<const N: usize>(
        &mut self,
        operands: [(u64, Access); N],
        len: u64,
        work: impl FnMut(&Reachable<'_>, [Operand; N], u64, usize),
    ) -> Result<(), CommandError> {
        self.chunks_of(operands, len, len, work)
    }

    /// The same of operands that are parts of longer ones, `whole` bytes from there on, all of which will be accessed soon.
    pub(super) fn chunks_of<const N: usize>(
        &mut self,
        operands: [(u64, Access); N],
        len: u64,
        whole: u64,
        mut work: impl FnMut(&Reachable<'_>, [Operand; N], u64, usize),
    ) -> Result<(), CommandError> {
        let mut done = 0;
        while done < len {
            let parts = operands.map(|(start, access)| Part {
                page: PageNo::of_address(start + done),
                offset: ((start + done) % PAGE_SIZE as u64) as usize,
                access,
                ahead: ((start + done) % PAGE_SIZE as u64 + (whole - done))
                    .div_ceil(PAGE_SIZE as u64),
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
        work: impl FnOnce(&Reachable<'_>, [Operand; N]),
    ) -> Result<(), CommandError> {
        const { assert!(N <= OPERANDS) };
        for _ in 0..REPLAYS {
            if self.stop.load(Ordering::Relaxed) {
                return Err(CommandError::Stopped);
            }
            let reachable = Reachable::new(&self.memory, self.context.host());
            let missing = {
                let mut inside = self.unit.enter();
                let mut at = [Operand::START; N];
                let mut missing = None;
                let root = self.context.root();
                for (number, (part, at)) in parts.iter().zip(&mut at).enumerate() {
                    match find::<F>(&mut inside, &reachable, &self.memory, root, number, part) {
                        Some(found) => *at = found,
                        None => {
                            missing = Some(part);
                            break;
                        }
                    }
                }
                let Some(missing) = missing else {
                    work(&reachable, at);
                    drop(inside);
                    return self.account(parts, &reachable);
                };
                missing
            };
            if self.unit.is_held() {
                // All was there, and nothing was taken away.
                return Err(CommandError::Thrashing(missing.page.address()));
            }
            // Outside: what brings the page may have to take others away.
            let access = kind(missing.access);
            self.attachment
                .fault_ahead(missing.page, access, missing.ahead)?;
        }
        Err(CommandError::Thrashing(parts[0].page.address()))
    }

    /// Waits for what the accesses take, outside of the chunk, and notes what crossed the link: a page that is hot comes.
    fn account(&self, parts: &[Part], reachable: &Reachable<'_>) -> Result<(), CommandError> {
        let start = Instant::now();
        self.memory.used(start, reachable.used());
        let crossed = reachable.crossed();
        let bytes: u64 = crossed.iter().sum();
        if bytes == 0 {
            return Ok(());
        }
        self.memory.cross(start, bytes as usize);
        for (part, bytes) in parts.iter().zip(crossed) {
            if bytes > 0 && !self.unit.is_held() {
                self.attachment.accessed_remotely(
                    part.page,
                    kind(part.access),
                    bytes,
                    part.ahead,
                )?;
            }
        }
        Ok(())
    }
}

/// Whether an access changes the page, in the engine's words.
pub(super) fn kind(access: Access) -> accel::Access {
    match access.writes() {
        true => accel::Access::Write,
        false => accel::Access::Read,
    }
}

/// Where a part lies, if it is in reach.
fn find<F: Format>(
    inside: &mut Inside<'_, AtomicU64>,
    reachable: &Reachable<'_>,
    memory: &Hbm,
    root: u64,
    number: usize,
    part: &Part,
) -> Option<Operand> {
    let found = inside
        .translate::<F>(memory, root, part.page, part.access)
        .ok()?;
    reachable.operand(number, part.page, found.of(part.page), part.offset)
}
