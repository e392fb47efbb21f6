//! The registers through which a driver reaches its device: virtio 1.2, 4.2 "Virtio Over MMIO", version 2.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::core::{Core, DeviceName, State, Stopped};
use super::device::{Broken, Device};
use super::interrupt::Interrupt;
use super::memory::DeviceMemory;
use super::worker::{Life, Worker};

pub(super) mod register;
mod selection;
#[cfg(test)]
mod tests;

use selection::Selection;

/// Size of a device's window in guest-physical addresses, bytes.
pub const WINDOW_SIZE: u64 = 0x1000;
/// Offset of the register QueueNotify, for KVM's ioeventfd.
pub const NOTIFY_OFFSET: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The register Version: the layout of these registers, not of virtio.
const LAYOUT: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"gmem");
/// First offset of the configuration space.
const CONFIG: u64 = 0x100;
/// What a driver may write to Status; it takes nothing back but all.
const DRIVER_STATUS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// A device in its window of guest-physical addresses.
pub struct MmioDevice {
    core: Arc<Core>,
    notifiers: Arc<[EventFd]>,
    selection: Mutex<Selection>,
    worker: Mutex<Life>,
}

impl MmioDevice {
    /// Puts `device` behind the registers. Its interrupt is raised by writing to `line`; its worker starts when
    /// a driver is ready.
    pub fn new(
        name: DeviceName,
        device: Box<dyn Device>,
        memory: Arc<dyn DeviceMemory>,
        line: EventFd,
    ) -> io::Result<Self> {
        let notifiers = device
            .queue_sizes()
            .iter()
            .map(|_| EventFd::new(EFD_NONBLOCK))
            .collect::<io::Result<Vec<_>>>()?;
        let core = Core::new(name, device, memory, Interrupt::new(line))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self {
            core: Arc::new(core),
            notifiers: notifiers.into(),
            selection: Mutex::default(),
            worker: Mutex::default(),
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// An eventfd for each queue: writing to it is writing the queue's number to QueueNotify.
    pub fn notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    /// What the device has done, and why it last asked for a reset, if it did; `None` if it is busy. Does not wait.
    pub fn metrics(&self) -> Option<(serde_json::Value, Option<String>)> {
        let state = self.core.lock_soon()?;
        Some((state.device.metrics(), state.broken.clone()))
    }

    /// Holds the device still: it touches no guest memory and takes no request until the result is dropped. Waits
    /// for what is under way, which may want pages of the guest that are elsewhere.
    pub fn hold(&self) -> Stopped<'_> {
        self.core.stop()
    }

    /// Ends the worker for good, and what the device has under way; false if it is still busy after `limit`.
    pub fn stop(&self, limit: Duration) -> bool {
        let life = mem::replace(&mut *self.life(), Life::Over);
        let idle = match life {
            Life::Running(worker) => worker.stop(limit),
            Life::Unborn | Life::Over => true,
        };
        if idle {
            self.core.lock().device.reset();
        }
        idle
    }

    /// Tells the driver that the configuration has changed, after somebody has changed it from outside.
    pub fn config_changed(&self) {
        self.core.interrupt.changed();
    }

    /// The driver reads `data.len()` bytes at `offset` of the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIG) {
            let mut selection = self.selection();
            selection.see(self.core.lock().device.config());
            let seen = selection.config.get(at as usize..).unwrap_or_default();
            let len = seen.len().min(data.len());
            data[..len].copy_from_slice(&seen[..len]);
            data[len..].fill(0);
            return;
        }
        data.fill(0);
        // Registers are read as aligned words.
        if let Some(word) = data.get_mut(..4)
            && offset.is_multiple_of(4)
        {
            word.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
    }

    /// The driver writes `data` at `offset` of the window.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(at) = offset.checked_sub(CONFIG) {
            let mut state = self.core.lock();
            let len = state.device.config().len();
            if (at as usize)
                .checked_add(data.len())
                .is_some_and(|end| end <= len)
            {
                state.device.write_config(at as usize, data);
            }
            return;
        }
        if let Ok(word) = <[u8; 4]>::try_from(data)
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        use register::*;
        match offset {
            MAGIC_VALUE => return MAGIC,
            register::VERSION => return LAYOUT,
            VENDOR_ID => return VENDOR,
            // Without the lock: this is read at every interrupt.
            INTERRUPT_STATUS => return self.core.interrupt.causes(),
            SHM_LEN_LOW | SHM_LEN_HIGH | SHM_BASE_LOW | SHM_BASE_HIGH => return u32::MAX,
            _ => {}
        }
        let mut selection = self.selection();
        let mut state = self.core.lock();
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        match offset {
            DEVICE_ID => state.device.id(),
            DEVICE_FEATURES => half(state.offered(), selection.device_features),
            QUEUE_NUM_MAX => selected(&mut state, &selection).map_or(0, |q| q.max_size().into()),
            QUEUE_READY => selected(&mut state, &selection).map_or(0, |q| q.ready().into()),
            STATUS => state.status,
            CONFIG_GENERATION => {
                selection.see(state.device.config());
                selection.generation
            }
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        use register::*;
        match offset {
            QUEUE_NOTIFY => {
                if let Some(notifier) = self.notifiers.get(value as usize) {
                    let _ = notifier.write(1);
                }
                return;
            }
            INTERRUPT_ACK => return self.core.interrupt.acknowledge(value),
            STATUS => return self.write_status(value),
            _ => {}
        }
        let mut selection = self.selection();
        match offset {
            DEVICE_FEATURES_SEL => selection.device_features = value,
            DRIVER_FEATURES_SEL => selection.driver_features = value,
            QUEUE_SEL => selection.queue = value,
            _ => {
                let mut state = self.core.lock();
                // What is agreed stays agreed until a reset.
                let negotiated = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
                if offset == DRIVER_FEATURES && !negotiated {
                    let shift = match selection.driver_features {
                        0 => 0,
                        1 => 32,
                        _ => return,
                    };
                    state.accepted &= !(u64::from(u32::MAX) << shift);
                    state.accepted |= u64::from(value) << shift;
                }
                let running = state.status & VIRTIO_CONFIG_S_DRIVER_OK != 0;
                if !running {
                    if let Some(queue) = selected(&mut state, &selection) {
                        register::set_up(queue, offset, value);
                    }
                } else if offset == QUEUE_READY && value == 0 {
                    self.stop_queue(&mut state, &selection);
                }
            }
        }
    }

    /// The driver wants a queue back while the device runs: it is told so by what it then reads, and from then on
    /// nothing touches the rings (4.2.2.1). Until a reset.
    fn stop_queue(&self, state: &mut State, selection: &Selection) {
        if selected(state, selection).is_some_and(|queue| queue.ready()) {
            self.core.serve(state, |device, guest| device.settle(guest));
        }
        if let Some(queue) = selected(state, selection) {
            queue.set_ready(false);
        }
    }

    fn write_status(&self, value: u32) {
        let mut state = self.core.lock();
        if value == 0 {
            return state.reset(&self.core.interrupt);
        }
        let mut new = value & DRIVER_STATUS & !state.status;
        if new & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let known = state.accepted & !state.offered() == 0;
            if !known || state.accepted & 1 << VIRTIO_F_VERSION_1 == 0 {
                new &= !VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        let agreed = (state.status | new) & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 && !agreed {
            new &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        state.status |= new;
        if new & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.start(&mut state);
        }
    }

    /// The driver is ready: its queues are checked, the worker starts, the device too.
    fn start(&self, state: &mut State) {
        let memory = self.core.memory.view();
        let event_idx = state.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let features = state.accepted;
        let mut wrong = None;
        for (number, queue) in state.queues.iter_mut().enumerate() {
            queue.set_event_idx(event_idx);
            if queue.ready() && !queue.is_valid(memory) {
                wrong = Some(format!("queue {number} is not in the guest's memory"));
            }
        }
        let mut life = self.life();
        if let Life::Unborn = *life {
            match Worker::start(&self.core, &self.notifiers, &state.sources()) {
                Ok(worker) => *life = Life::Running(worker),
                Err(error) => wrong = Some(format!("no worker for the device: {error}")),
            }
        }
        drop(life);
        self.core.serve(state, |device, guest| match wrong {
            Some(cause) => Err(Broken(cause)),
            None => device.start(features, guest),
        });
        // What came before the driver was ready was ignored.
        for notifier in self.notifiers.iter() {
            let _ = notifier.write(1);
        }
    }

    fn selection(&self) -> MutexGuard<'_, Selection> {
        self.selection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MmioDevice {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

fn selected<'s>(state: &'s mut State, selection: &Selection) -> Option<&'s mut Queue> {
    state.queues.get_mut(selection.queue as usize)
}

const _: () = assert!(VIRTIO_CONFIG_S_NEEDS_RESET & DRIVER_STATUS == 0);
