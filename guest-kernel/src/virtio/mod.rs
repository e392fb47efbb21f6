//! Drivers' side of virtio-mmio (virtio 1.2, 4.2), by the rules: registers, split queues, and how a device is made ready.
//!
//! There are no interrupts: who waits for an answer looks for it.

pub mod queue;
pub mod registers;

use crate::extent::Extent;
use crate::work::Machine;
use queue::Queue;
use registers::{QUEUE_NUM, QUEUE_NUM_MAX, QUEUE_READY, QUEUE_SEL, Registers, VERSION_1, status};

/// What is wrong with a device.
pub type Fault = &'static str;

/// Resets the device, agrees on version 1 and on those of `features` that it offers, places `queues`, which have the
/// numbers from 0 on, and says that the driver is ready. Returns what was agreed on. The queues' memory must be zero.
///
/// # Errors
///
/// The device does not keep to the rules, or cannot do with queues of that size.
pub fn start<M: Machine>(
    registers: &Registers<'_, M>,
    features: u64,
    queues: &mut [Queue],
    ram: &Extent<'_>,
) -> Result<u64, Fault> {
    registers.reset();
    if registers.status() != 0 {
        return Err("a reset left something in the status");
    }
    for queue in queues.iter_mut() {
        queue.forget(ram);
    }
    registers.add_status(status::ACKNOWLEDGE);
    registers.add_status(status::DRIVER);
    let agreed = registers.offered() & (features | VERSION_1);
    registers.accept(agreed);
    if registers.add_status(status::FEATURES_OK) & status::FEATURES_OK == 0 {
        return Err("the features on offer were refused");
    }
    for (number, queue) in queues.iter().enumerate() {
        registers.write(QUEUE_SEL, number as u32);
        let size = u32::from(queue.size());
        if registers.read(QUEUE_NUM_MAX) < size || registers.read(QUEUE_READY) != 0 {
            return Err("a queue is not as a reset leaves it");
        }
        registers.write(QUEUE_NUM, size);
        let places = queue.places();
        registers.place(places.table, places.avail, places.used);
        registers.write(QUEUE_READY, 1);
    }
    let now = registers.add_status(status::DRIVER_OK);
    if now & (status::DRIVER_OK | status::NEEDS_RESET) != status::DRIVER_OK {
        return Err("a driver by the rules was not accepted");
    }
    Ok(agreed)
}
