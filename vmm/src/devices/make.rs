//! From what the user asks for to devices.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use gmem_devices::accel::{CardError, HostMemory};
use gmem_devices::virtio::balloon::{Balloon, BalloonControl, BalloonOptions};
use gmem_devices::virtio::blk::{Blk, BlkOptions, OpenError};
use gmem_devices::virtio::console::Console;
use gmem_devices::virtio::gmem::{Calls, Gmem};
use gmem_devices::virtio::mem::{Blocks, Mem, MemControl, MemOptions, RegionError};
use gmem_devices::virtio::net::{Net, NetOptions, Tap, TapError};
use gmem_devices::virtio::rng::Rng;
use gmem_devices::virtio::vsock::{SocketFile, Vsock as VsockDevice, VsockError};
use gmem_devices::virtio::xpu::Xpu;
use gmem_devices::virtio::{Device, Rate};
use gmem_wire::layout;

use crate::accelerators::{AccelConfig, Accelerators, AddressSpace, Driven};
use crate::kvm::KvmError;
use crate::memory::managed::ManagedMemory;
use crate::memory::ram::RamRegion;

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A file or block device, raw.
    pub path: PathBuf,
    /// The guest cannot write to it.
    pub read_only: bool,
    /// Its limits.
    pub rate: Option<Rate>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetInterface {
    /// Name of the tap interface on the host.
    pub tap: String,
    /// Its limits, for each direction.
    pub rate: Option<Rate>,
}

/// A socket between guest and host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vsock {
    /// The guest's context id, from 3 on.
    pub cid: u32,
    /// The Unix socket on the host.
    pub path: PathBuf,
}

/// What the user's input goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleKind {
    /// The serial port.
    #[default]
    Serial,
    /// A virtio console.
    Virtio,
}

/// Which devices a microVM has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceConfig {
    /// Disks, in the order in which the guest numbers them.
    pub disks: Vec<Disk>,
    /// Network interfaces.
    pub nets: Vec<NetInterface>,
    /// A socket to the host.
    pub vsock: Option<Vsock>,
    /// A source of random numbers.
    pub rng: bool,
    /// A balloon.
    pub balloon: bool,
    /// Memory that can be plugged, bytes at most.
    pub hotplug: Option<u64>,
    /// What the user's input goes to.
    pub console: ConsoleKind,
    /// Accelerators.
    pub accelerators: Vec<AccelConfig>,
    /// The guest may lend memory to others.
    pub donate: bool,
}

/// Why a microVM's devices could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// More than there are interrupt lines.
    #[error("{found} devices are too many: at most {limit}; leave some out", limit = layout::VIRTIO_DEVICES)]
    TooMany {
        /// Asked for.
        found: usize,
    },
    /// A disk.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// A tap interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A socket.
    #[error(transparent)]
    Vsock(#[from] VsockError),
    /// Memory that can be plugged.
    #[error("--hotplug: {0}")]
    Region(#[from] RegionError),
    /// An accelerator.
    #[error("--accel: {0}")]
    Accelerator(#[from] CardError),
    /// The host has no more descriptors.
    #[error("the devices' events cannot be made: {0}; look at `ulimit -n`")]
    Events(#[from] io::Error),
    /// A KVM call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl DeviceError {
    /// Whether the configuration is wrong, as opposed to the host.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::TooMany { .. }
                | Self::Disk(_)
                | Self::Tap(TapError::Name { .. } | TapError::OtherKind(_) | TapError::Busy(_))
                | Self::Vsock(_)
                | Self::Region(_)
                | Self::Accelerator(CardError::Memory { .. } | CardError::Attach(..))
        )
    }
}

/// Linux plugs memory in pieces of this size, at multiples of it.
const PIECE: u64 = 128 << 20;

/// Blocks of memory come and go as the engine counts them.
struct PluggedBlocks(Arc<ManagedMemory>);

impl Blocks for PluggedBlocks {
    fn plug(&mut self, gpa: u64, len: u64) -> io::Result<()> {
        self.0.plug(gpa, len).map_err(io::Error::other)
    }

    fn unplug(&mut self, gpa: u64, len: u64) -> io::Result<()> {
        self.0.unplug(gpa, len).map_err(io::Error::other)
    }
}

/// Devices, each with its name, and handles on those that are controlled from outside.
#[derive(Default)]
pub(crate) struct Made {
    pub(super) devices: Vec<(String, Box<dyn Device>)>,
    pub(super) balloon: Option<(usize, BalloonControl)>,
    pub(super) plugged: Option<(usize, MemControl)>,
    pub(super) typist: Option<UnixStream>,
    pub(super) socket: Option<SocketFile>,
    pub(super) accelerators: Accelerators,
    pub(super) calls: Option<Arc<Calls>>,
}

impl Made {
    /// Adds a device of this kind; returns its number.
    fn add(&mut self, kind: &str, device: impl Device + 'static) -> usize {
        let same = self
            .devices
            .iter()
            .filter(|(name, _)| name.starts_with(kind));
        let name = format!("{kind}{}", same.count());
        self.devices.push((name, Box::new(device)));
        self.devices.len() - 1
    }

    /// Adds accelerators, and the door to the memory system that their driver wants.
    fn add_accelerators(
        &mut self,
        configs: &[AccelConfig],
        donate: bool,
        memory: &Arc<ManagedMemory>,
    ) -> Result<(), DeviceError> {
        let regions = memory.ram().mapped();
        let ram: Vec<_> = regions
            .map(|region| region.start..region.start + region.size)
            .collect();
        let host: Arc<dyn HostMemory> = memory.ram().clone();
        self.accelerators = Accelerators::new(configs, &ram, &host)?;
        for (config, card) in configs.iter().zip(self.accelerators.cards.clone()) {
            let told = config.of(&card);
            let streams = config.streams;
            let driven = Driven { card, streams };
            self.add(config.arch.name(), Xpu::new(told, Box::new(driven))?);
        }
        if !configs.is_empty() {
            let space = AddressSpace::new(&self.accelerators, memory.clone());
            let gmem = match donate {
                true => {
                    let calls = self.calls.insert(Calls::new()?);
                    Gmem::lending(Box::new(space), Arc::clone(calls))?
                }
                false => Gmem::new(Box::new(space))?,
            };
            self.add("gmem", gmem);
        }
        Ok(())
    }
}

impl DeviceConfig {
    /// Where memory can be plugged into a guest of `memory` bytes: above all of it, and above 4 GiB.
    pub(crate) fn pluggable(&self, memory: u64) -> Option<RamRegion> {
        let hole = layout::MMIO_END - layout::MMIO_START;
        // More memory than there are addresses is refused by whoever makes it.
        let start = memory.saturating_add(hole).max(layout::MMIO_END);
        let start = start.checked_next_multiple_of(PIECE).unwrap_or(u64::MAX);
        self.hotplug.map(|size| RamRegion { start, size })
    }

    /// Makes the devices, over `memory`; a virtio console writes to `output`.
    pub(crate) fn make(
        &self,
        memory: &Arc<ManagedMemory>,
        output: Box<dyn Write + Send>,
    ) -> Result<Made, DeviceError> {
        let mut made = Made::default();
        if self.console == ConsoleKind::Virtio {
            let (keys, typist) = UnixStream::pair()?;
            typist.set_nonblocking(true)?;
            made.add("console", Console::new(output, Some(keys.into()))?);
            made.typist = Some(typist);
        }
        for disk in &self.disks {
            let options = BlkOptions {
                path: disk.path.clone(),
                read_only: disk.read_only,
                rate: disk.rate,
                serial: None,
            };
            made.add("blk", Blk::open(options)?);
        }
        for net in &self.nets {
            let options = NetOptions {
                mac: None,
                receive: net.rate,
                send: net.rate,
            };
            made.add("net", Net::new(Tap::open(&net.tap)?, options)?);
        }
        if let Some(vsock) = &self.vsock {
            let vsock = VsockDevice::new(vsock.cid.into(), &vsock.path)?;
            made.socket = Some(vsock.socket_file());
            made.add("vsock", vsock);
        }
        if self.rng {
            made.add("rng", Rng::new());
        }
        if let Some(region) = memory.ram().pluggable() {
            let options = MemOptions::new(region.start, region.size);
            let blocks = Box::new(PluggedBlocks(Arc::clone(memory)));
            let (mem, control) = Mem::new(memory.clone(), blocks, options)?;
            made.plugged = Some((made.add("mem", mem), control));
        }
        if self.balloon {
            let options = BalloonOptions::default();
            let (balloon, control) = Balloon::new(memory.clone(), options)?;
            made.balloon = Some((made.add("balloon", balloon), control));
        }
        made.add_accelerators(&self.accelerators, self.donate, memory)?;
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_plugged_above_all_of_the_guests() {
        let config = DeviceConfig {
            hotplug: Some(2 << 20),
            ..Default::default()
        };
        let start = |memory| config.pluggable(memory).unwrap().start;
        assert_eq!(start(512 << 20), 4 << 30);
        assert_eq!(start(3 << 30), 4 << 30);
        assert_eq!(start((3 << 30) + 4096), (4 << 30) + PIECE);
        // Sizes that no guest can have: refused later, and with words.
        for memory in [u64::MAX - 4095, u64::MAX << 30] {
            assert!(start(memory) >= memory);
        }
        assert_eq!(DeviceConfig::default().pluggable(512 << 20), None);
    }

    #[test]
    fn names_of_interfaces_are_the_users_and_missing_drivers_the_hosts() {
        let usage = |error: TapError| DeviceError::from(error).is_usage();
        let name = || "tap0".to_owned();
        assert!(usage(TapError::Name {
            name: name(),
            len: 99
        }));
        assert!(usage(TapError::OtherKind(name())));
        assert!(usage(TapError::Busy(name())));
        assert!(!usage(TapError::NoTun));
        assert!(!usage(TapError::Permission(name())));
    }
}
