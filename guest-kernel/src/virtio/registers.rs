//! A device's registers (virtio 1.2, 4.2), as its driver sees them.

use crate::work::Machine;

/// Reads [`MAGIC_VALUE`].
pub const MAGIC: u64 = 0x00;
/// The device's kind.
pub const DEVICE_ID: u64 = 0x08;
/// Half of what the device offers.
pub const DEVICE_FEATURES: u64 = 0x10;
/// Which half.
pub const DEVICE_FEATURES_SEL: u64 = 0x14;
/// Half of what the driver accepts.
pub const DRIVER_FEATURES: u64 = 0x20;
/// Which half.
pub const DRIVER_FEATURES_SEL: u64 = 0x24;
/// Which queue the next registers are about.
pub const QUEUE_SEL: u64 = 0x30;
/// The most descriptors that it can have.
pub const QUEUE_NUM_MAX: u64 = 0x34;
/// How many it has.
pub const QUEUE_NUM: u64 = 0x38;
/// Whether it is in use.
pub const QUEUE_READY: u64 = 0x44;
/// Written: the number of a queue with something new.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Written: what is done with.
pub const INTERRUPT_ACK: u64 = 0x64;
/// See [`status`].
pub const STATUS: u64 = 0x70;
/// Address of the table of descriptors, as [`QUEUE_DRIVER`] and [`QUEUE_DEVICE`] in two registers.
pub const QUEUE_DESC: u64 = 0x80;
/// Address of the driver's ring.
pub const QUEUE_DRIVER: u64 = 0x90;
/// Address of the device's ring.
pub const QUEUE_DEVICE: u64 = 0xa0;
/// The configuration space begins.
pub const CONFIG: u64 = 0x100;
/// Where a window ends.
pub const WINDOW: u64 = 0x1000;

/// What every device has at [`MAGIC`].
pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"virt");

/// Bits of [`STATUS`].
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// It knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// It is ready.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device is broken.
    pub const NEEDS_RESET: u32 = 0x40;
}

/// VIRTIO_F_VERSION_1.
pub const VERSION_1: u64 = 1 << 32;

/// One device's window.
pub struct Registers<'a, M> {
    machine: &'a M,
    /// The device's number.
    pub number: usize,
}

impl<M> Clone for Registers<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Registers<'_, M> {}

impl<'a, M: Machine> Registers<'a, M> {
    /// The window of device `number`.
    pub fn new(machine: &'a M, number: usize) -> Self {
        Self { machine, number }
    }

    /// Reads a register.
    pub fn read(&self, offset: u64) -> u32 {
        self.machine.read_device(self.number, offset, 4) as u32
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, value: u32) {
        self.machine
            .write_device(self.number, offset, 4, value.into());
    }

    /// Reads in whatever width, wherever within the window.
    pub fn read_any(&self, offset: u64, width: u8) -> u64 {
        let offset = offset.min(WINDOW - u64::from(width));
        self.machine.read_device(self.number, offset, width)
    }

    /// Writes in whatever width, wherever within the window.
    pub fn write_any(&self, offset: u64, width: u8, value: u64) {
        let offset = offset.min(WINDOW - u64::from(width));
        self.machine.write_device(self.number, offset, width, value);
    }

    /// Eight bytes of the configuration space.
    pub fn config(&self, offset: u64) -> u64 {
        let low = u64::from(self.read(CONFIG + offset));
        low | u64::from(self.read(CONFIG + offset + 4)) << 32
    }

    /// The status.
    pub fn status(&self) -> u32 {
        self.read(STATUS)
    }

    /// Sets bits of the status; what it then is.
    pub fn add_status(&self, bits: u32) -> u32 {
        self.write(STATUS, self.status() | bits);
        self.status()
    }

    /// Whether the device is broken.
    pub fn needs_reset(&self) -> bool {
        self.status() & status::NEEDS_RESET != 0
    }

    /// Resets the device: on return it touches nothing any more.
    pub fn reset(&self) {
        self.write(STATUS, 0);
    }

    /// The features on offer.
    pub fn offered(&self) -> u64 {
        let half = |select| {
            self.write(DEVICE_FEATURES_SEL, select);
            u64::from(self.read(DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    /// Accepts features.
    pub fn accept(&self, features: u64) {
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(DRIVER_FEATURES_SEL, select);
            self.write(DRIVER_FEATURES, half);
        }
    }

    /// Writes one of a queue's addresses: two registers, low half first.
    pub fn address(&self, offset: u64, address: u64) {
        self.write(offset, address as u32);
        self.write(offset + 4, (address >> 32) as u32);
    }

    /// Tells the selected queue where its parts are.
    pub fn place(&self, table: u64, avail: u64, used: u64) {
        self.address(QUEUE_DESC, table);
        self.address(QUEUE_DRIVER, avail);
        self.address(QUEUE_DEVICE, used);
    }

    /// Says that there is something new in a queue.
    pub fn notify(&self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }
}
