//! A microVM's accelerators: from options to cards in the guest's address space.

mod nodes;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use gmem_core::accel::{Placement, Traffic};
use gmem_core::engine::Engine;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::Speeds;
pub use gmem_devices::accel::Arch;
use gmem_devices::accel::{Card, CardError, CardOptions, HostMemory, Stream};
use gmem_devices::virtio::xpu::{Accelerator, Streams, StreamsError, XpuConfig};
use gmem_wire::xpu::{QUEUE_SIZE, arch};

pub(crate) use nodes::AddressSpace;

/// An accelerator to be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AccelConfig {
    /// Its micro-architecture.
    pub arch: Arch,
    /// Its memory, bytes, page tables included.
    pub hbm: u64,
    /// Added to each transfer over its link, microseconds.
    pub latency_us: f64,
    /// Bandwidth of its link, 10^9 bytes a second; unlimited if not given.
    pub gbps: Option<f64>,
    /// Added to that for what it accesses in the guest's memory, microseconds.
    pub remote_latency_us: f64,
    /// Of its own memory, for each chunk of work, microseconds.
    pub hbm_latency_us: f64,
    /// Bandwidth of its own memory, 10^9 bytes a second; unlimited if not given.
    pub hbm_gbps: Option<f64>,
    /// Operands come as it touches them.
    pub faults: bool,
    /// How many streams of commands.
    pub streams: usize,
    /// Where pages go that it touches.
    pub placement: Placement,
}

/// The accelerators of a microVM, in the order of the options.
#[derive(Clone, Default)]
pub(crate) struct Accelerators {
    pub(crate) cards: Vec<Arc<Card>>,
    /// Of the guest's memory, once it is armed.
    engine: Arc<OnceLock<Arc<Engine>>>,
}

impl Accelerators {
    /// Makes them for the guest-physical addresses of `ram`, which they reach in place by `host`. They are named by their
    /// kinds, with a number from the second of a kind on.
    pub(crate) fn new(
        configs: &[AccelConfig],
        ram: &[Range<u64>],
        host: &Arc<dyn HostMemory>,
    ) -> Result<Self, CardError> {
        let mut made = Self::default();
        for config in configs {
            let same = made
                .cards
                .iter()
                .filter(|card| card.arch() == config.arch)
                .count();
            let options = CardOptions {
                arch: config.arch,
                name: match same {
                    0 => config.arch.name().to_owned(),
                    n => format!("{}{}", config.arch.name(), n + 1),
                },
                memory: config.hbm,
                link: Link::new(config.latency_us, config.gbps.unwrap_or(0.0)),
                speeds: Speeds {
                    local: Link::new(config.hbm_latency_us, config.hbm_gbps.unwrap_or(0.0)),
                    remote_latency_us: config.remote_latency_us,
                },
                // One more than streams: it copies for virtio-gmem.
                units: config.streams + 1,
                placement: config.placement,
            };
            let card = Card::new(options, ram, Arc::clone(host))?;
            made.cards.push(Arc::new(card));
        }
        Ok(made)
    }

    /// Attaches them to the guest's address space. Once.
    pub(crate) fn attach(&self, engine: &Arc<Engine>) -> Result<(), CardError> {
        let attach = |card: &Arc<Card>| card.attach(engine, QUEUE_SIZE.into());
        self.cards.iter().try_for_each(attach)?;
        // There is one caller.
        let _ = self.engine.set(Arc::clone(engine));
        Ok(())
    }
}

impl AccelConfig {
    /// What the guest is told of it.
    pub(crate) fn of(&self, card: &Card) -> XpuConfig {
        XpuConfig {
            arch: match self.arch {
                Arch::Npu => arch::NPU,
                Arch::Gpu => arch::GPU,
            },
            streams: self.streams,
            memory: card.bytes(),
            granule: self.arch.granule() as u32,
            faults: self.faults,
        }
    }
}

/// A card, as its virtio device knows it.
pub(crate) struct Driven {
    pub(crate) card: Arc<Card>,
    pub(crate) streams: usize,
}

impl Accelerator for Driven {
    fn node(&self) -> u32 {
        let attachment = self.card.attachment();
        attachment.map_or(0, |attachment| attachment.node().into())
    }

    fn traffic(&self) -> Traffic {
        let attachment = self.card.attachment();
        attachment.map_or_else(Traffic::default, |attachment| attachment.traffic())
    }

    fn streams(&mut self) -> Result<Box<dyn Streams>, StreamsError> {
        let stream = |_| self.card.stream();
        let streams: Result<Vec<Stream>, CardError> = (0..self.streams).map(stream).collect();
        match streams {
            Ok(streams) => Ok(Box::new(streams)),
            Err(error) => Err(StreamsError {
                name: self.card.name().to_owned(),
                cause: error.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
