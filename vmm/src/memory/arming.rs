//! Arming: plain memory becomes memory whose pages come and go.
//!
//! Guest RAM is registered with userfaultfd, and what is present by then is taken over by the engine. No
//! vCPU runs meanwhile.

use std::io;
use std::sync::Arc;

use gmem_core::bytes::Bytes;
use gmem_core::engine::{self, ConfigError, Engine};
use gmem_core::hnode::Hnode;
use gmem_core::hnode::file::{FileTier, FileTierError};
use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::ram::Arena;
use gmem_core::hnode::remote::Remote;
use gmem_core::hnode::zip::Zip;
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE, PageNo, PageRange, Unit};
use gmem_core::pager::address::Address;
use gmem_core::pager::client::AttachError;

use super::failure::Failure;
use super::huge;
use super::mmu::VcpuMmu;
use super::pagemap::Pagemap;
use super::plan::{Lower, Plan};
use super::ram::GuestRam;
use super::reserve::{Backing, ReserveError};
use super::service::{Parts, Service};
use super::userfault::{Mode, OpenError, Reading, Userfault};

/// Why memory cannot be armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The sizes do not fit.
    #[error(transparent)]
    Sizes(#[from] ConfigError),
    /// Memory is not whole blocks.
    #[error(
        "guest memory of {0} is not a whole number of 2M blocks; with unit=2M give a multiple of 2M"
    )]
    NotBlocks(Bytes),
    /// A file tier.
    #[error(transparent)]
    File(#[from] FileTierError),
    /// A holder of a remote tier.
    #[error("{holder}: {source}")]
    Remote {
        /// Its address.
        holder: String,
        /// Why it cannot be used.
        source: AttachError,
    },
    /// No address space for the arena.
    #[error(transparent)]
    Arena(#[from] ReserveError),
    /// No userfaultfd.
    #[error(transparent)]
    Userfault(#[from] OpenError),
    /// The kernel refused something else.
    #[error("{step}: {source}; run `gmem check`")]
    System {
        /// What was asked of it.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl ArmError {
    /// Whether the configuration is wrong, as opposed to the host.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Sizes(_) | Self::NotBlocks(_) => true,
            Self::File(error) => !matches!(error, FileTierError::Room { .. }),
            Self::Remote { source, .. } => source.is_usage(),
            Self::Arena(_) | Self::Userfault(_) | Self::System { .. } => false,
        }
    }
}

pub(crate) fn step(step: &'static str) -> impl FnOnce(io::Error) -> ArmError {
    move |source| ArmError::System { step, source }
}

/// Memory whose pages come and go.
pub(super) struct Armed {
    pub(super) engine: Arc<Engine>,
    // Threads before the descriptor: nobody must read from it when it is closed.
    _service: Service,
    pub(super) userfault: Arc<Userfault>,
}

impl Armed {
    /// Arms `ram`, of which `unplugged` bytes are not plugged in, with handlers on `cpus`. No vCPU may run.
    pub(super) fn new(
        ram: &Arc<GuestRam>,
        unplugged: u64,
        plan: &Plan,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Self, ArmError> {
        if plan.unit == Unit::Block && !ram.size().is_multiple_of(BLOCK_SIZE as u64) {
            return Err(ArmError::NotBlocks(Bytes(ram.size())));
        }
        let userfault = Arc::new(Userfault::open(Reading::Blocking)?);
        let mmu = VcpuMmu {
            discard: Default::default(),
            userfault: Arc::clone(&userfault),
            ram: Arc::clone(ram),
            promotes: plan.huge && huge::is_offered(),
        };
        let arena = Arena::new(plan.budget / PAGE_SIZE as u64, plan.unit)?;
        let config = engine::Config {
            ram: ranges(ram),
            unplugged: unplugged / PAGE_SIZE as u64,
            unit: plan.unit,
            arena,
            tiers: tiers(&plan.lower)?,
            overcommit: plan.overcommit,
            prefetch: plan.prefetch,
        };
        let engine = Arc::new(Engine::new(config, Arc::new(mmu))?);
        if plan.unit == Unit::Block {
            make_blocks_whole(ram)?;
        }
        ram.set_backing(Backing::Small)
            .map_err(step("page size of guest memory"))?;
        let (slots, len) = engine.arena().range();
        userfault
            .register(slots.0, len, Mode::WriteProtect)
            .map_err(step("registering the arena with userfaultfd"))?;
        for region in ram.mapped() {
            let start = ram.base() + region.start as usize;
            userfault
                .register(start, region.size as usize, Mode::MissingAndWriteProtect)
                .map_err(step("registering guest memory with userfaultfd"))?;
        }
        adopt(ram, &engine)?;
        let parts = Parts {
            engine: Arc::clone(&engine),
            userfault: Arc::clone(&userfault),
            ram: Arc::clone(ram),
            failure: Arc::clone(failure),
        };
        let service = Service::start(&parts, cpus).map_err(step("starting fault handlers"))?;
        Ok(Self {
            engine,
            _service: service,
            userfault,
        })
    }
}

fn ranges(ram: &GuestRam) -> Vec<PageRange> {
    let range =
        |start: u64, size: u64| PageRange::new(PageNo::of_address(start), size / PAGE_SIZE as u64);
    ram.mapped()
        .map(|region| range(region.start, region.size))
        .collect()
}

/// Makes the tiers below the host, named by their kinds, with a number from the second of a kind on.
fn tiers(lower: &[Lower]) -> Result<Vec<Box<dyn Hnode>>, ArmError> {
    let mut made: Vec<Box<dyn Hnode>> = Vec::with_capacity(lower.len());
    for tier in lower {
        let Some(kind) = tier.kind() else {
            continue;
        };
        let same = made.iter().filter(|other| other.kind() == kind).count();
        let name = match same {
            0 => kind.to_string(),
            n => format!("{kind}{}", n + 1),
        };
        made.push(match tier {
            Lower::Hbm {
                bytes,
                latency_us,
                gbps,
            } => {
                let link = Link::new(*latency_us, gbps.unwrap_or(0.0));
                Box::new(Hbm::new(name, *bytes, link).map_err(step("emulated HBM"))?)
            }
            Lower::Zip { bytes } => {
                Box::new(Zip::new(name, *bytes).map_err(step("compressed memory"))?)
            }
            Lower::File { bytes, path } => Box::new(FileTier::new(name, *bytes, path)?),
            Lower::Remote { bytes, spec } => {
                let attach = |address: &Address| {
                    let holder = address.holder(bytes / PAGE_SIZE as u64, &spec.admission);
                    holder.map_err(|source| ArmError::Remote {
                        holder: address.to_string(),
                        source,
                    })
                };
                let holders = spec.holders.iter().map(attach).collect::<Result<_, _>>()?;
                let remote = Remote::new(name, *bytes, holders, spec.options);
                Box::new(remote.map_err(step("a remote tier"))?)
            }
            Lower::Swap { .. } => continue,
        });
    }
    Ok(made)
}

/// Fills up the blocks of which something is present, so that the engine finds whole ones.
fn make_blocks_whole(ram: &GuestRam) -> Result<(), ArmError> {
    let pagemap = Pagemap::open().map_err(step("page map"))?;
    for region in ram.mapped() {
        let start = ram.base() + region.start as usize;
        let runs = pagemap
            .scan(start, region.size as usize)
            .map_err(step("page map"))?;
        let mut next = 0;
        for run in runs {
            let first = (run.start - run.start % BLOCK_SIZE).max(next);
            for block in (first..run.start + run.len).step_by(BLOCK_SIZE) {
                ram.populate_block((block - ram.base()) as u64)
                    .map_err(step("filling a block of guest memory"))?;
                next = block + BLOCK_SIZE;
            }
        }
    }
    Ok(())
}

/// Tells the engine what is present.
fn adopt(ram: &GuestRam, engine: &Engine) -> Result<(), ArmError> {
    let pagemap = Pagemap::open().map_err(step("page map"))?;
    let (mut pages, mut blocks) = (Vec::new(), Vec::new());
    for region in ram.mapped() {
        let (start, len) = (ram.base() + region.start as usize, region.size as usize);
        let mut runs = pagemap.scan(start, len).map_err(step("page map"))?;
        if runs.iter().any(|run| run.swapped) {
            ram.populate_swapped(region.start, len)
                .map_err(step("reading swapped pages"))?;
            runs = pagemap.scan(start, len).map_err(step("page map"))?;
        }
        for run in runs {
            if run.zero {
                // The kernel's shared zero page is no frame of ours: a touch brings a page of our own.
                ram.discard((run.start - ram.base()) as u64, run.len)
                    .map_err(step("dropping shared zero pages"))?;
                continue;
            }
            let range = PageRange::new(
                PageNo::of_address((run.start - ram.base()) as u64),
                (run.len / PAGE_SIZE) as u64,
            );
            split_at_blocks(
                range,
                run.huge || engine.unit() == Unit::Block,
                &mut pages,
                &mut blocks,
            );
        }
    }
    engine.adopt(&pages, &blocks);
    Ok(())
}

/// Cuts `range` into whole blocks, if they are wanted, and the pages before and behind them.
fn split_at_blocks(
    range: PageRange,
    whole: bool,
    pages: &mut Vec<PageRange>,
    blocks: &mut Vec<PageRange>,
) {
    const PAGES: u64 = (BLOCK_SIZE / PAGE_SIZE) as u64;
    let first = range.start.0.next_multiple_of(PAGES);
    let end = range.end().0 / PAGES * PAGES;
    if !whole || first >= end {
        pages.push(range);
        return;
    }
    let between = |from: u64, to: u64| PageRange::new(PageNo(from), to - from);
    blocks.push(between(first, end));
    let around = [between(range.start.0, first), between(end, range.end().0)];
    pages.extend(around.into_iter().filter(|range| range.pages > 0));
}
