//! A driver that reaches its device through the registers, with the worker behind them.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::{BUFFERS, TestMemory};
use super::ring::Ring;
use crate::virtio::mmio::register::*;
use crate::virtio::{Device, DeviceMemory, MmioDevice};

/// A device in its window, and its driver.
pub(crate) struct Registers {
    pub(crate) device: MmioDevice,
    pub(crate) memory: Arc<TestMemory>,
    pub(crate) rings: Vec<Ring>,
    sizes: Vec<u16>,
    line: EventFd,
}

impl Registers {
    /// A device after power-on.
    pub(crate) fn new(device: impl Device + 'static) -> Self {
        let (memory, line) = (TestMemory::new(), EventFd::new(EFD_NONBLOCK).unwrap());
        let sizes = device.queue_sizes().to_vec();
        let theirs = Arc::clone(&memory) as Arc<dyn DeviceMemory>;
        let raised = line.try_clone().unwrap();
        Self {
            device: MmioDevice::new("probe".into(), Box::new(device), theirs, raised).unwrap(),
            memory,
            rings: Vec::new(),
            sizes,
            line,
        }
    }

    /// A device whose driver is ready.
    pub(crate) fn started(device: impl Device + 'static) -> Self {
        let mut registers = Self::new(device);
        registers.start();
        registers
    }

    pub(crate) fn read(&self, offset: u64) -> u32 {
        let mut word = [0xaa; 4];
        self.device.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    pub(crate) fn write(&self, offset: u64, value: u32) {
        self.device.write(offset, &value.to_le_bytes());
    }

    /// Adds to the status; what it is then.
    pub(crate) fn add_status(&self, bits: u32) -> u32 {
        self.write(STATUS, self.read(STATUS) | bits);
        self.read(STATUS)
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            self.write(DEVICE_FEATURES_SEL, select);
            u64::from(self.read(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn accept(&self, features: u64) {
        for (select, half) in [features as u32, (features >> 32) as u32]
            .iter()
            .enumerate()
        {
            self.write(DRIVER_FEATURES_SEL, select as u32);
            self.write(DRIVER_FEATURES, *half);
        }
    }

    /// Resets the device and takes it as far as agreeing on features; the status.
    pub(crate) fn negotiate(&self, features: u64) -> u32 {
        self.write(STATUS, 0);
        self.add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        self.add_status(VIRTIO_CONFIG_S_DRIVER);
        self.accept(features);
        self.add_status(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    /// Tells queue `queue` where its rings are.
    pub(crate) fn set_up(&self, queue: u32, size: u32, [table, avail, used]: [u64; 3]) {
        self.write(QUEUE_SEL, queue);
        self.write(QUEUE_NUM, size);
        for (low, high, gpa) in [
            (QUEUE_DESC_LOW, QUEUE_DESC_HIGH, table),
            (QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH, avail),
            (QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH, used),
        ] {
            self.write(low, gpa as u32);
            self.write(high, (gpa >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
    }

    /// From reset to a driver that is ready, as the specification has it (3.1.1); the status.
    pub(crate) fn start(&mut self) -> u32 {
        self.negotiate(self.offered());
        self.rings = Ring::all(&self.sizes);
        for (queue, ring) in self.rings.iter().enumerate() {
            ring.clear(&self.memory);
            self.set_up(queue as u32, ring.size().into(), ring.addresses());
        }
        self.add_status(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Puts a request of one buffer for the device to read into `queue`, without telling the device.
    pub(crate) fn send(&mut self, queue: usize) {
        self.rings[queue].send(&self.memory, &[(BUFFERS, 16, false)]);
    }

    pub(crate) fn notify(&self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }

    /// Waits until as many requests have come back from `queue`.
    pub(crate) fn wait_used(&mut self, queue: usize, count: usize) {
        let mut seen = 0;
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen < count {
            assert!(
                Instant::now() < deadline,
                "{seen} of {count} requests came back"
            );
            seen += self.rings[queue].used(&self.memory).len();
            std::thread::sleep(Duration::from_micros(100));
        }
        assert_eq!(seen, count);
    }

    /// Waits for an interrupt, and acknowledges it as a driver does; its causes.
    pub(crate) fn interrupt(&self) -> u32 {
        let mut fd = libc::pollfd {
            fd: self.line.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, which lives through the call.
        let ready = unsafe { libc::poll(&mut fd, 1, 10_000) };
        assert_eq!(ready, 1, "no interrupt for 10 seconds");
        self.line.read().unwrap();
        let causes = self.read(INTERRUPT_STATUS);
        self.write(INTERRUPT_ACK, causes);
        causes
    }
}
