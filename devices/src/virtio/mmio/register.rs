//! Offsets of the registers, and those that set up a queue.

use virtio_queue::{Queue, QueueT};

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
/// Length and address of a shared memory region: all ones, there is none.
pub const SHM_LEN_LOW: u64 = 0xb0;
pub const SHM_LEN_HIGH: u64 = 0xb4;
pub const SHM_BASE_LOW: u64 = 0xb8;
pub const SHM_BASE_HIGH: u64 = 0xbc;
pub const CONFIG_GENERATION: u64 = 0xfc;

/// A write to one of a queue's registers, before the driver is ready.
pub(super) fn set_up(queue: &mut Queue, offset: u64, value: u32) {
    match offset {
        // A size that does not do, or an address, leaves what was there: what the driver then sees is its own doing.
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
