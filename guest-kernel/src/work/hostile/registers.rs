//! A device's registers (virtio 1.2, 4.2), as its driver sees them.

use super::Machine;

pub(super) const MAGIC: u64 = 0x00;
pub(super) const DEVICE_ID: u64 = 0x08;
pub(super) const DEVICE_FEATURES: u64 = 0x10;
pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
pub(super) const DRIVER_FEATURES: u64 = 0x20;
pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
pub(super) const QUEUE_SEL: u64 = 0x30;
pub(super) const QUEUE_NUM_MAX: u64 = 0x34;
pub(super) const QUEUE_NUM: u64 = 0x38;
pub(super) const QUEUE_READY: u64 = 0x44;
pub(super) const QUEUE_NOTIFY: u64 = 0x50;
pub(super) const INTERRUPT_ACK: u64 = 0x64;
pub(super) const STATUS: u64 = 0x70;
pub(super) const QUEUE_DESC: u64 = 0x80;
pub(super) const QUEUE_DRIVER: u64 = 0x90;
pub(super) const QUEUE_DEVICE: u64 = 0xa0;
pub(super) const CONFIG: u64 = 0x100;
/// Where a window ends.
pub(super) const WINDOW: u64 = 0x1000;

pub(super) const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");

/// Bits of [`STATUS`].
pub(super) mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 0x40;
}

/// VIRTIO_F_VERSION_1.
pub(super) const VERSION_1: u64 = 1 << 32;

/// One device's window.
pub(super) struct Registers<'a, M> {
    machine: &'a M,
    /// The device's number.
    pub(super) number: usize,
}

impl<M> Clone for Registers<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Registers<'_, M> {}

impl<'a, M: Machine> Registers<'a, M> {
    pub(super) fn new(machine: &'a M, number: usize) -> Self {
        Self { machine, number }
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        self.machine.read_device(self.number, offset, 4) as u32
    }

    pub(super) fn write(&self, offset: u64, value: u32) {
        self.machine
            .write_device(self.number, offset, 4, value.into());
    }

    /// Reads in whatever width, wherever within the window.
    pub(super) fn read_any(&self, offset: u64, width: u8) -> u64 {
        let offset = offset.min(WINDOW - u64::from(width));
        self.machine.read_device(self.number, offset, width)
    }

    /// Writes in whatever width, wherever within the window.
    pub(super) fn write_any(&self, offset: u64, width: u8, value: u64) {
        let offset = offset.min(WINDOW - u64::from(width));
        self.machine.write_device(self.number, offset, width, value);
    }

    /// Eight bytes of the configuration space.
    pub(super) fn config(&self, offset: u64) -> u64 {
        let low = u64::from(self.read(CONFIG + offset));
        low | u64::from(self.read(CONFIG + offset + 4)) << 32
    }

    pub(super) fn status(&self) -> u32 {
        self.read(STATUS)
    }

    pub(super) fn add_status(&self, bits: u32) -> u32 {
        self.write(STATUS, self.status() | bits);
        self.status()
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Resets the device: on return it touches nothing any more.
    pub(super) fn reset(&self) {
        self.write(STATUS, 0);
    }

    pub(super) fn offered(&self) -> u64 {
        let half = |select| {
            self.write(DEVICE_FEATURES_SEL, select);
            u64::from(self.read(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    pub(super) fn accept(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(DRIVER_FEATURES_SEL, select);
            self.write(DRIVER_FEATURES, half);
        }
    }

    /// Writes one of a queue's addresses: two registers, low half first.
    pub(super) fn address(&self, offset: u64, address: u64) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }

    /// Tells the selected queue where its parts are.
    pub(super) fn place(&self, table: u64, avail: u64, used: u64) {
        self.address(QUEUE_DESC, table);
        self.address(QUEUE_DRIVER, avail);
        self.address(QUEUE_DEVICE, used);
    }

    pub(super) fn notify(&self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }
}
