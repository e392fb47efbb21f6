//! A microVM's virtio devices: what they are made of, and where the guest finds them.
//!
//! Device n has window n of [`layout::VIRTIO_START`] and line n from [`layout::VIRTIO_LINE`] on. Kernels are told by
//! their command line ([`Devices::command_line`]).

mod make;

pub use gmem_devices::virtio::{Limit, Rate};
pub use make::{ConsoleKind, DeviceConfig, DeviceError, Disk, NetInterface, Vsock};

use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use gmem_core::engine::Engine;
use gmem_devices::virtio::balloon::{BalloonControl, TargetError};
use gmem_devices::virtio::gmem::Calls;
use gmem_devices::virtio::mem::{MemControl, RequestedSizeError};
use gmem_devices::virtio::vsock::SocketFile;
use gmem_devices::virtio::{MmioDevice, NOTIFY_OFFSET, Stopped, WINDOW_SIZE};
use gmem_wire::layout;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::accelerators::Accelerators;
use crate::kvm::vm::Vm;
use crate::memory::managed::ManagedMemory;

const _: () = assert!(layout::VIRTIO_WINDOW == WINDOW_SIZE);

/// The virtio devices of a microVM, in the order of their windows.
#[derive(Default)]
pub struct Devices {
    windows: Vec<MmioDevice>,
    balloon: Option<(usize, BalloonControl)>,
    plugged: Option<(usize, MemControl)>,
    typist: Option<UnixStream>,
    socket: Option<SocketFile>,
    accelerators: Accelerators,
    calls: Option<Arc<Calls>>,
}

/// Why a balloon cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// There is none.
    #[error("this microVM has no balloon; start it with --balloon")]
    None,
    /// The size does not do.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Why no other amount of memory can be plugged in.
#[derive(Debug, thiserror::Error)]
pub enum PluggedError {
    /// None can.
    #[error("this microVM has no memory to be plugged; start it with --hotplug SIZE")]
    None,
    /// The size does not do.
    #[error(transparent)]
    Size(#[from] RequestedSizeError),
}

impl Devices {
    /// Makes the devices of `config` over `memory`, a virtio console with this `output`, and gives them windows and
    /// interrupt lines of `vm`.
    pub fn new(
        vm: &Vm,
        memory: &Arc<ManagedMemory>,
        config: &DeviceConfig,
        output: Box<dyn Write + Send>,
    ) -> Result<Self, DeviceError> {
        let make::Made {
            devices,
            balloon,
            plugged,
            typist,
            socket,
            accelerators,
            calls,
        } = config.make(memory, output)?;
        if devices.len() > layout::VIRTIO_DEVICES {
            return Err(DeviceError::TooMany {
                found: devices.len(),
            });
        }
        let mut windows = Vec::with_capacity(devices.len());
        for (number, (name, device)) in (0..).zip(devices) {
            let line = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            vm.connect_line(&line, layout::VIRTIO_LINE + number)?;
            let window = MmioDevice::new(name, device, memory.clone(), line)?;
            let doorbell = address(number) + NOTIFY_OFFSET;
            for (queue, notifier) in (0..).zip(window.notifiers()) {
                vm.connect_doorbell(notifier, doorbell, queue)?;
            }
            windows.push(window);
        }
        Ok(Self {
            windows,
            balloon,
            plugged,
            typist,
            socket,
            accelerators,
            calls,
        })
    }

    /// Lets the accelerators have pages of the guest's memory, which is armed. Before the vCPUs run, once.
    pub fn attach(&self, engine: &Arc<Engine>) -> Result<(), DeviceError> {
        Ok(self.accelerators.attach(engine)?)
    }

    /// The device whose window holds guest-physical address `gpa`, and the offset in it.
    pub fn at(&self, gpa: u64) -> Option<(&MmioDevice, u64)> {
        let offset = gpa.checked_sub(layout::VIRTIO_START)?;
        let window = self.windows.get((offset / WINDOW_SIZE) as usize)?;
        Some((window, offset % WINDOW_SIZE))
    }

    /// Where the input of the virtio console goes, if there is one.
    pub fn typist(&self) -> Option<&UnixStream> {
        self.typist.as_ref()
    }

    /// All devices.
    pub fn iter(&self) -> impl Iterator<Item = &MmioDevice> {
        self.windows.iter()
    }

    /// Asks the guest for a balloon of `bytes`.
    pub fn set_balloon(&self, bytes: u64) -> Result<(), BalloonError> {
        let (device, control) = self.balloon.as_ref().ok_or(BalloonError::None)?;
        control.set_target_bytes(bytes)?;
        self.windows[*device].config_changed();
        Ok(())
    }

    /// The handle on the balloon, if there is one.
    pub fn balloon(&self) -> Option<&BalloonControl> {
        Some(&self.balloon.as_ref()?.1)
    }

    /// Asks the guest to have `bytes` of memory plugged in.
    pub fn set_plugged(&self, bytes: u64) -> Result<(), PluggedError> {
        let (device, control) = self.plugged.as_ref().ok_or(PluggedError::None)?;
        control.set_requested_bytes(bytes)?;
        self.windows[*device].config_changed();
        Ok(())
    }

    /// The handle on memory that can be plugged, if there is any.
    pub fn plugged(&self) -> Option<&MemControl> {
        Some(&self.plugged.as_ref()?.1)
    }

    /// The way to a guest that may lend memory, if it may.
    pub fn calls(&self) -> Option<&Arc<Calls>> {
        self.calls.as_ref()
    }

    /// What a Linux kernel's command line has to say so that it finds the devices.
    pub fn command_line(&self) -> String {
        let mut words = String::new();
        for (number, _) in (0..).zip(&self.windows) {
            // Writing to a string does not fail.
            let _ = write!(
                words,
                " virtio_mmio.device=4K@{:#x}:{}",
                address(number),
                layout::VIRTIO_LINE + number
            );
        }
        words
    }

    /// Holds all devices still until the result is dropped. vCPUs first: one may be waiting for a device.
    pub fn hold(&self) -> Vec<Stopped<'_>> {
        self.windows.iter().map(MmioDevice::hold).collect()
    }

    /// Removes the files by which others reach the guest: the run is about to end, and may end beneath threads that
    /// are stuck.
    pub fn withdraw(&self) {
        if let Some(socket) = &self.socket {
            socket.remove();
        }
    }

    /// Ends the devices' workers, after the last vCPU; false if one is still busy after `limit`.
    pub fn stop(&self, limit: Duration) -> bool {
        // All of them, not only up to the first that is busy.
        let busy = self.windows.iter().filter(|device| !device.stop(limit));
        busy.count() == 0
    }
}

/// Guest-physical address of window `number`.
fn address(number: u32) -> u64 {
    layout::VIRTIO_START + u64::from(number) * WINDOW_SIZE
}
