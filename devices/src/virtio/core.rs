//! A device with its queues and state, behind one lock.

use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};

use super::device::{Broken, Device};
use super::guest::{Guest, QueueSet};
use super::interrupt::Interrupt;
use super::memory::DeviceMemory;

/// What the transport offers beside the device's own features.
const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;

/// How often the worker lets others go first before it takes the lock, and how long each time.
const PATIENCE: (u32, Duration) = (20, Duration::from_micros(50));

/// How often who cannot wait looks whether the lock is free, and how long it gives way each time.
const LOOKS: (u32, Duration) = (200, Duration::from_micros(100));

/// A device's name in messages and metrics, such as `blk0`.
pub type DeviceName = String;

/// What vCPUs and the worker share of a device.
pub(super) struct Core {
    pub(super) name: DeviceName,
    // Dropped before the memory: a device may have to wait for the kernel to let go of it.
    state: Mutex<State>,
    /// Threads that wait for the lock, without the worker.
    waiting: AtomicU32,
    pub(super) interrupt: Interrupt,
    pub(super) memory: Arc<dyn DeviceMemory>,
}

/// The part behind the lock.
pub(super) struct State {
    pub(super) device: Box<dyn Device>,
    pub(super) queues: Vec<Queue>,
    /// The register Status.
    pub(super) status: u32,
    /// Features that the driver has written.
    pub(super) accepted: u64,
    /// Why the device asked for a reset last.
    pub(super) broken: Option<String>,
}

/// Proof that a device does nothing: its lock. Dropping it lets it go on.
#[must_use = "dropping it lets the device go on"]
pub struct Stopped<'a>(#[allow(dead_code, reason = "held for its drop")] MutexGuard<'a, State>);

impl Core {
    pub(super) fn new(
        name: DeviceName,
        device: Box<dyn Device>,
        memory: Arc<dyn DeviceMemory>,
        interrupt: Interrupt,
    ) -> Result<Self, virtio_queue::Error> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| Queue::new(*size))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name,
            memory,
            interrupt,
            state: Mutex::new(State {
                device,
                queues,
                status: 0,
                accepted: 0,
                broken: None,
            }),
            waiting: AtomicU32::new(0),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere ends the device's worker, not the others.
        match self.state.try_lock() {
            Ok(state) => return state,
            Err(TryLockError::Poisoned(state)) => return state.into_inner(),
            Err(TryLockError::WouldBlock) => {}
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// The lock, if it is to be had soon: a device that waits for a page of the guest holds it as long as that takes.
    pub(super) fn lock_soon(&self) -> Option<MutexGuard<'_, State>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = (0..LOOKS.0).find_map(|_| match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
            Err(TryLockError::WouldBlock) => {
                thread::sleep(LOOKS.1);
                None
            }
        });
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// The lock for the worker: a driver that keeps it busy does not keep others out.
    pub(super) fn lock_last(&self) -> MutexGuard<'_, State> {
        for _ in 0..PATIENCE.0 {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                break;
            }
            thread::sleep(PATIENCE.1);
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the device still, with nothing under way.
    pub(super) fn stop(&self) -> Stopped<'_> {
        let mut state = self.lock();
        self.serve(&mut state, |device, guest| device.settle(guest));
        Stopped(state)
    }

    /// Lets the device do something with its driver, if the driver is ready; a broken driver stops it. The
    /// queues in the result have more to do, see [`Guest::pop`].
    pub(super) fn serve(
        &self,
        state: &mut State,
        work: impl FnOnce(&mut dyn Device, &mut Guest<'_>) -> Result<(), Broken>,
    ) -> QueueSet {
        if !state.live() {
            return QueueSet::default();
        }
        let mut guest = Guest::new(&*self.memory, &mut state.queues, &self.interrupt);
        let worked = work(&mut *state.device, &mut guest);
        let cut_short = guest.cut_short();
        if let Err(Broken(cause)) = worked {
            state.device.reset();
            state.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            state.broken = Some(cause);
            self.interrupt.changed();
            return QueueSet::default();
        }
        cut_short
    }
}

impl State {
    /// Whether the driver is ready and has not broken the device.
    pub(super) fn live(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0
            && self.status & VIRTIO_CONFIG_S_NEEDS_RESET == 0
    }

    /// All features on offer.
    pub(super) fn offered(&self) -> u64 {
        OFFERED | self.device.features()
    }

    /// Descriptors that the worker waits for.
    pub(super) fn sources(&self) -> Vec<RawFd> {
        self.device.sources()
    }

    /// Everything as it was at power-on.
    pub(super) fn reset(&mut self, interrupt: &Interrupt) {
        self.device.reset();
        self.queues.iter_mut().for_each(Queue::reset);
        self.status = 0;
        self.accepted = 0;
        interrupt.reset();
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("name", &self.name).finish()
    }
}
