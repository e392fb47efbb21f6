//! Virtio devices, over one transport.
//!
//! | file | part |
//! |---|---|
//! | `device` | the trait that every device is |
//! | `guest` | what a device sees of its driver: queues, memory, interrupt |
//! | `memory` | the guest's memory as devices use it |
//! | `core` | a device, its queues and its state, behind one lock |
//! | `mmio` | the registers (virtio 1.2, 4.2) through which a driver reaches a device |
//! | `worker` | the thread that serves a device |
//! | `interrupt` | the interrupt line with its two causes |
//! | `span` | a request's buffers, checked |
//! | `rate` | token buckets, for devices that may be limited |
//! | [`balloon`], [`blk`], [`console`], [`gmem`], [`mem`], [`net`], [`rng`], [`vsock`], [`xpu`] | the devices, a folder each: `device` and its queues, `request`, `metrics`, `state` for a snapshot |
//!
//! A notification takes this way: the driver writes the queue's number to the register QueueNotify; KVM turns
//! the write into a signal of the queue's eventfd; the worker wakes, takes the device's lock and calls
//! [`Device::notified`], which takes descriptor chains from the queue, does its work, and gives them back.
//!
//! The driver is not trusted. A queue that makes no sense ends in [`Broken`]: the device asks to be reset and
//! does nothing until then; everything else goes on.

pub mod balloon;
pub mod blk;
pub mod console;
mod core;
mod device;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod gmem;
mod guest;
mod incoming;
mod interrupt;
pub mod mem;
mod memory;
mod mmio;
pub mod net;
mod rate;
pub mod rng;
mod span;
#[cfg(any(test, fuzzing))]
mod testing;
pub mod vsock;
mod worker;
pub mod xpu;

pub use self::core::{DeviceName, Stopped};
pub use device::{Broken, Device};
pub use guest::{Chain, Guest};
pub use incoming::{Incoming, Input};
pub use interrupt::Interrupt;
pub use memory::DeviceMemory;
pub use mmio::{MmioDevice, NOTIFY_OFFSET, WINDOW_SIZE};
pub use rate::{Limit, Limiter, Rate};
pub use span::{Buffers, MAX_BUFFERS, Span};
