//! An accelerator as its driver knows it: attached to an address space, with streams of commands.
//!
//! Besides its MMU functions (`hardware`) this is all that an accelerator needs to take part in an address space, with the
//! fault that `chunk` reports: the glue that docs/porting.md counts.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use gmem_core::accel::{Accelerator, Attachment, Placement};
use gmem_core::engine::Engine;
use gmem_core::hnode::local::LocalMemory;

use super::arch::Arch;
use super::hardware::Hardware;
use super::mmu::{Format, Gpu, Npu};
use super::operand::HostMemory;
use super::options::{CardError, CardOptions};
use super::processor::Processor;
use super::stream::Stream;

/// Starts a stream on a free execution unit, whatever its format; its queue holds so many commands.
type Start = Box<dyn Fn(&Arc<Attachment>, usize) -> Option<io::Result<Stream>> + Send + Sync>;

/// An accelerator to be attached to an address space.
pub struct Card {
    arch: Arch,
    accelerator: Arc<Accelerator>,
    placement: Placement,
    start: Start,
    attachment: OnceLock<Arc<Attachment>>,
}

impl Card {
    /// An accelerator for the guest-physical addresses of `ram`, which reaches `host` in place. Its page tables lie in its
    /// own memory.
    pub fn new(
        options: CardOptions,
        ram: &[Range<u64>],
        host: Arc<dyn HostMemory>,
    ) -> Result<Self, CardError> {
        let CardOptions { name, memory, .. } = &options;
        let (name, memory) = (name.clone(), *memory);
        let tables = options.arch.tables(ram);
        if memory < tables + options.arch.granule() {
            return Err(CardError::Memory {
                name,
                memory,
                tables,
            });
        }
        match options.arch {
            Arch::Npu => Self::of::<Npu>(options, tables, host),
            Arch::Gpu => Self::of::<Gpu>(options, tables, host),
        }
        .map_err(|error| CardError::Host(name, error))
    }

    fn of<F: Format>(
        options: CardOptions,
        tables: u64,
        host: Arc<dyn HostMemory>,
    ) -> io::Result<Self> {
        let memory = LocalMemory::new(options.memory, tables, options.link)?;
        let memory = Arc::new(memory.with_speeds(options.speeds));
        let hardware = Hardware::<F>::new(Arc::clone(&memory), options.units);
        let pmap = Arc::clone(&hardware);
        let start = move |attachment: &Arc<Attachment>, depth| {
            let processor = Processor::new(&hardware, attachment)?;
            Some(Stream::new(processor.with_host(Arc::clone(&host)), depth))
        };
        Ok(Self {
            arch: options.arch,
            accelerator: Accelerator::new(options.name, memory, pmap),
            placement: options.placement,
            start: Box::new(start),
            attachment: OnceLock::new(),
        })
    }

    /// Lets it have pages of `engine`'s address space. Once.
    pub fn attach(&self, engine: &Arc<Engine>) -> Result<(), CardError> {
        let attachment = self.accelerator.attach(engine);
        let attachment =
            attachment.map_err(|error| CardError::Attach(self.name().to_owned(), error))?;
        attachment.set_placement(self.placement);
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
        let attachment = self.attachment.get();
        let stream = attachment.and_then(|attachment| (self.start)(attachment, depth));
        let name = || self.name().to_owned();
        let stream = stream.ok_or_else(|| CardError::NoUnit(name()))?;
        stream.map_err(|error| CardError::Host(name(), error))
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        self.accelerator.name()
    }

    /// Its micro-architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Memory for pages, bytes.
    pub fn bytes(&self) -> u64 {
        self.accelerator.memory().bytes()
    }
}
