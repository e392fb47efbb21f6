//! An accelerator as its driver knows it: attached to an address space, with streams of commands.
//!
//! This is all that an accelerator needs to take part in an address space besides its MMU functions
//! (`hardware`): docs/porting.md goes through it line by line.

use std::io;
use std::sync::{Arc, OnceLock};

use gmem_core::accel::{Accelerator, Attachment};
use gmem_core::engine::{AttachError, Engine};
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::LocalMemory;
use gmem_core::page::PAGE_SIZE;

use super::hardware::Hardware;
use super::mmu::{Format, Gpu, Npu};
use super::processor::Processor;
use super::stream::Stream;

/// A micro-architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Four levels of tables, granules of 4 KiB.
    Npu,
    /// Five levels, granules of 64 KiB.
    Gpu,
}

impl Arch {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Npu => Npu::NAME,
            Self::Gpu => Gpu::NAME,
        }
    }

    /// Bytes that come and go together.
    pub fn granule(self) -> u64 {
        let pages = match self {
            Self::Npu => Npu::granule(),
            Self::Gpu => Gpu::granule(),
        };
        pages * PAGE_SIZE as u64
    }
}

/// Why an accelerator does not begin.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Its memory does not hold its page tables and a page.
    #[error(
        "{name}: {memory} bytes of memory are too few: page tables for this guest take {tables}; give it more"
    )]
    Memory {
        /// Its name.
        name: String,
        /// What it was given.
        memory: u64,
        /// What its page tables may take.
        tables: u64,
    },
    /// The host has no memory for it, or no thread.
    #[error("{0}: {1}")]
    Host(String, io::Error),
    /// It cannot be attached.
    #[error("{0} cannot be attached: {1}")]
    Attach(String, AttachError),
    /// It is attached to no address space yet, or has no units left.
    #[error("{0} has no execution unit free")]
    NoUnit(String),
}

/// An accelerator to be attached to an address space.
pub struct Card {
    arch: Arch,
    units: usize,
    accelerator: Arc<Accelerator>,
    processor: Box<dyn Units>,
    attachment: OnceLock<Arc<Attachment>>,
}

/// Its execution units, whatever its format.
trait Units: Send + Sync {
    fn stream(&self, attachment: &Arc<Attachment>, depth: usize) -> Option<io::Result<Stream>>;
}

impl<F: Format> Units for Arc<Hardware<F>> {
    fn stream(&self, attachment: &Arc<Attachment>, depth: usize) -> Option<io::Result<Stream>> {
        let processor = Processor::new(self, attachment)?;
        Some(Stream::new(processor, depth))
    }
}

impl Card {
    /// An accelerator of `memory` bytes behind `link`, with `units` execution units, called `name`. Its page tables lie in
    /// its own memory: as many as it takes to map guest-physical addresses below `top`.
    pub fn new(
        arch: Arch,
        name: String,
        memory: u64,
        link: Link,
        units: usize,
        top: u64,
    ) -> Result<Self, CardError> {
        let tables = tables(top);
        let granule = arch.granule();
        if memory < tables + granule {
            return Err(CardError::Memory {
                name,
                memory,
                tables: tables + granule,
            });
        }
        let local = LocalMemory::new(memory, tables, link);
        let local = Arc::new(local.map_err(|error| CardError::Host(name.clone(), error))?);
        Ok(match arch {
            Arch::Npu => Self::of(arch, name, Hardware::<Npu>::new(local, units), units),
            Arch::Gpu => Self::of(arch, name, Hardware::<Gpu>::new(local, units), units),
        })
    }

    fn of<F: Format>(arch: Arch, name: String, hardware: Arc<Hardware<F>>, units: usize) -> Self {
        let memory = Arc::clone(hardware.memory());
        Self {
            arch,
            units,
            accelerator: Accelerator::new(name, memory, Arc::clone(&hardware) as _),
            processor: Box::new(hardware),
            attachment: OnceLock::new(),
        }
    }

    /// Lets it have pages of `engine`'s address space. Once.
    pub fn attach(&self, engine: &Arc<Engine>) -> Result<(), CardError> {
        let attachment = self.accelerator.attach(engine);
        let attachment =
            attachment.map_err(|error| CardError::Attach(self.name().to_owned(), error))?;
        // There is one caller.
        let _ = self.attachment.set(Arc::new(attachment));
        Ok(())
    }

    /// Its place in the address space, once it is attached.
    pub fn attachment(&self) -> Option<&Arc<Attachment>> {
        self.attachment.get()
    }

    /// A stream, in whose queue at most `depth` commands wait; there are as many as units.
    pub fn stream(&self, depth: usize) -> Result<Stream, CardError> {
        let none = || CardError::NoUnit(self.name().to_owned());
        let attachment = self.attachment.get().ok_or_else(none)?;
        let stream = self.processor.stream(attachment, depth).ok_or_else(none)?;
        stream.map_err(|error| CardError::Host(self.name().to_owned(), error))
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        self.accelerator.name()
    }

    /// Its micro-architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Its execution units.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Memory for pages, bytes.
    pub fn bytes(&self) -> u64 {
        self.accelerator.memory().bytes()
    }
}

/// Bytes of page tables that map addresses below `top`: in both formats a table of the last level covers 2 MiB, one of the
/// level above at least 512 MiB, and there are few others.
fn tables(top: u64) -> u64 {
    const OTHERS: u64 = 16;
    (top.div_ceil(2 << 20) + top.div_ceil(512 << 20) + OTHERS) * PAGE_SIZE as u64
}
