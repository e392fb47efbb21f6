//! The registers through which a driver reaches its device: virtio 1.2, 4.2 "Virtio Over MMIO", version 2.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
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
use super::device::Device;
use super::interrupt::Interrupt;
use super::memory::DeviceMemory;
use super::worker::Worker;

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

mod register {
    pub const MAGIC_VALUE: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR_ID: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = super::NOTIFY_OFFSET;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC_LOW: u64 = 0x80;
    pub const QUEUE_DESC_HIGH: u64 = 0x84;
    pub const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    /// Length of a shared memory region: all ones, there is none.
    pub const SHM_LEN_LOW: u64 = 0xb0;
    pub const SHM_LEN_HIGH: u64 = 0xb4;
    pub const CONFIG_GENERATION: u64 = 0xfc;
}

/// What the driver has selected, and what it has seen of the configuration.
#[derive(Debug, Default)]
struct Selection {
    queue: u32,
    device_features: u32,
    driver_features: u32,
    config: Vec<u8>,
    generation: u32,
}

/// A device in its window of guest-physical addresses.
pub struct MmioDevice {
    core: Arc<Core>,
    notifiers: Arc<[EventFd]>,
    selection: Mutex<Selection>,
    worker: Mutex<Option<Worker>>,
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

    /// What the device has done, and why it last asked for a reset, if it did.
    pub fn metrics(&self) -> (serde_json::Value, Option<String>) {
        let state = self.core.lock();
        (state.device.metrics(), state.broken.clone())
    }

    /// Holds the device still: it touches no guest memory and takes no request until the result is dropped.
    pub fn hold(&self) -> Stopped<'_> {
        self.core.stop()
    }

    /// Ends the worker for good; false if it is still busy after `limit`.
    pub fn stop(&self, limit: Duration) -> bool {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let worker = { worker }.take();
        worker.is_none_or(|worker| worker.stop(limit))
    }

    /// Tells the driver that the configuration has changed, after somebody has changed it from outside.
    pub fn config_changed(&self) {
        self.core.interrupt.changed();
    }

    /// The driver reads `data.len()` bytes at `offset` of the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(at) = offset.checked_sub(CONFIG) {
            let config = self.core.lock().device.config();
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = config.get(at as usize + index).copied().unwrap_or(0);
            }
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
            SHM_LEN_LOW | SHM_LEN_HIGH => return u32::MAX,
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
                let now = state.device.config();
                if now != selection.config {
                    selection.config = now;
                    selection.generation = selection.generation.wrapping_add(1);
                }
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
                if let Some(queue) = selected(&mut state, &selection)
                    && !running
                {
                    set_up(queue, offset, value);
                }
            }
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
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_none() {
            match Worker::start(&self.core, &self.notifiers, &state.sources()) {
                Ok(started) => *worker = Some(started),
                Err(error) => wrong = Some(format!("no worker for the device: {error}")),
            }
        }
        self.core.serve(state, |device, guest| match wrong {
            Some(cause) => Err(super::Broken(cause)),
            None => device.start(features, guest),
        });
        // What came before the driver was ready was ignored.
        for notifier in self.notifiers.iter() {
            let _ = notifier.write(1);
        }
    }

    fn selection(&self) -> std::sync::MutexGuard<'_, Selection> {
        self.selection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

/// A write to one of a queue's registers, before the driver is ready.
fn set_up(queue: &mut Queue, offset: u64, value: u32) {
    use register::*;
    match offset {
        // A size that does not do leaves the queue at its largest: what the driver then sees is its own doing.
        QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(u16::MAX)),
        QUEUE_READY => queue.set_ready(value == 1),
        QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
        QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
        QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
        QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
        QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
        QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
        _ => {}
    }
}

const _: () = assert!(VIRTIO_CONFIG_S_NEEDS_RESET & DRIVER_STATUS == 0);
