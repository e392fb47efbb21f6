//! An accelerator as its driver knows it: attached to an address space, with streams of commands.
//!
//! Besides its MMU functions (`hardware`) this is all that an accelerator needs to take part in an address space, with the
//! fault that `chunk` reports: the glue that docs/porting.md counts.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

/// Starts a stream on each execution unit, whatever its format; their queues hold so many commands.
type Start = Box<dyn Fn(&Arc<Attachment>, usize) -> io::Result<Vec<Stream>> + Send + Sync>;

/// An accelerator to be attached to an address space.
pub struct Card {
    arch: Arch,
    accelerator: Arc<Accelerator>,
    placement: Placement,
    start: Start,
    attachment: OnceLock<Arc<Attachment>>,
    /// Streams that nobody has taken yet.
    streams: Mutex<Vec<Stream>>,
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
            let units = std::iter::from_fn(|| Processor::new(&hardware, attachment));
            let reaching = units.map(|unit| unit.with_host(Arc::clone(&host)));
            reaching.map(|unit| Stream::new(unit, depth)).collect()
        };
        Ok(Self {
            arch: options.arch,
            accelerator: Accelerator::new(options.name, memory, pmap),
            placement: options.placement,
            start: Box::new(start),
            attachment: OnceLock::new(),
            streams: Mutex::default(),
        })
    }

    /// Lets it have pages of `engine`'s address space, and starts its streams, in whose queues at most `depth` commands wait.
    /// Once. The streams' threads may run wherever the caller may: not on one of the vCPUs' threads, which are pinned.
    pub fn attach(&self, engine: &Arc<Engine>, depth: usize) -> Result<(), CardError> {
        let attachment = self.accelerator.attach(engine);
        let attachment =
            attachment.map_err(|error| CardError::Attach(self.name().to_owned(), error))?;
        attachment.set_placement(self.placement);
        let attachment = Arc::new(attachment);
        let streams = (self.start)(&attachment, depth);
        *self.free_streams() =
            streams.map_err(|error| CardError::Host(self.name().to_owned(), error))?;
        // There is one caller.
        let _ = self.attachment.set(attachment);
        Ok(())
    }

    /// Its place in the address space, once it is attached.
    pub fn attachment(&self) -> Option<&Arc<Attachment>> {
        self.attachment.get()
    }

    /// A stream of its own for the caller; there are as many as units.
    pub fn stream(&self) -> Result<Stream, CardError> {
        let stream = self.free_streams().pop();
        stream.ok_or_else(|| CardError::NoUnit(self.name().to_owned()))
    }

    fn free_streams(&self) -> MutexGuard<'_, Vec<Stream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
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
