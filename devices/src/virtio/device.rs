//! What every virtio device is.

use std::os::fd::RawFd;

use super::guest::Guest;

/// The driver has broken its device: a queue or request that no driver makes by the rules.
///
/// The device stops and asks to be reset; what was in flight is given up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

impl From<virtio_queue::Error> for Broken {
    fn from(error: virtio_queue::Error) -> Self {
        Self(error.to_string())
    }
}

/// A virtio device behind its transport.
///
/// All methods are called with the device's lock held: by vCPUs for what registers say, by the device's worker
/// thread for [`Device::notified`] and [`Device::ready`]. The worker may wait for guest pages, and for its
/// backend where that never takes long: a vCPU may wait for the lock.
pub trait Device: Send {
    /// The device's type (virtio 1.2, chapter 5).
    fn id(&self) -> u32;

    /// Features that the device offers, besides the transport's own.
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space as it is now.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    /// The driver writes to the configuration space; all of `data` lies within it.
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Descriptors that wake the device when they are readable, besides its queues' notifications. They are
    /// asked for once, when the worker starts, and stay open as long as the device.
    fn sources(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Whether the device would do something if `sources()[source]` were readable. Asked after each call: while
    /// it says no, nobody waits for that source, so that one which stays readable, such as an input for which
    /// the driver has no buffers, does not keep the worker busy.
    fn wants(&self, source: usize) -> bool {
        let _ = source;
        true
    }

    /// The driver has agreed to `features` and is ready.
    fn start(&mut self, features: u64, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let _ = (features, guest);
        Ok(())
    }

    /// The driver says that there is something in queue `queue`.
    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken>;

    /// `sources()[source]` is readable, or was a moment ago, and the driver is ready.
    fn ready(&mut self, source: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let _ = (source, guest);
        Ok(())
    }

    /// Somebody wants the device to hold still, for a snapshot: on return nothing that it has begun touches guest
    /// memory any more, and all of it has been given back. What waits in the queues goes on waiting.
    fn settle(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let _ = guest;
        Ok(())
    }

    /// The driver, or its failure, resets the device: on return nothing of it touches guest memory any more.
    fn reset(&mut self) {}

    /// What the device has done since it was made, as a JSON object.
    fn metrics(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}
