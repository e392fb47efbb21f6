//! The registers before drivers good and bad.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use virtio_bindings::virtio_config::VIRTIO_F_ACCESS_PLATFORM;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::Guest;
use crate::virtio::testing::Registers;

mod handshake;
mod hostile;
mod worker;

const SIZES: [u16; 2] = [8, 4];
/// Features of the probe.
const FEATURES: u64 = 1 << 3 | 1 << 50;
/// What any driver must accept.
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const AGREED: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const BROKEN: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// What a test sees of its probe, and what it tells it.
#[derive(Default)]
struct Seen {
    started: AtomicUsize,
    features: Mutex<u64>,
    resets: AtomicUsize,
    settled: AtomicUsize,
    served: AtomicUsize,
    ready: AtomicUsize,
    config: Mutex<Vec<u8>>,
    wants: AtomicBool,
    /// The next call takes so long.
    slow: Mutex<Duration>,
    /// Where the available index is, of a driver that asks again whenever it is served.
    endless: Mutex<Option<u64>>,
}

/// A device that gives everything back.
struct Probe {
    seen: Arc<Seen>,
    source: Option<EventFd>,
}

impl Device for Probe {
    fn id(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &SIZES
    }
    fn config(&self) -> Vec<u8> {
        self.seen.config.lock().unwrap().clone()
    }
    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.seen.config.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
    }
    fn sources(&self) -> Vec<RawFd> {
        self.source.iter().map(AsRawFd::as_raw_fd).collect()
    }
    fn wants(&self, _: usize) -> bool {
        self.seen.wants.load(Ordering::Relaxed)
    }
    fn start(&mut self, features: u64, _: &mut Guest<'_>) -> Result<(), Broken> {
        self.seen.started.fetch_add(1, Ordering::Relaxed);
        *self.seen.features.lock().unwrap() = features;
        Ok(())
    }
    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let pause = mem::take(&mut *self.seen.slow.lock().unwrap());
        thread::sleep(pause);
        loop {
            while let Some(chain) = guest.pop(queue)? {
                guest.give_back(queue, chain.head_index(), 0)?;
                self.seen.served.fetch_add(1, Ordering::Relaxed);
                if let Some(index) = *self.seen.endless.lock().unwrap() {
                    let (memory, at) = (guest.memory(), GuestAddress(index));
                    let now: u16 = memory.read_obj(at).unwrap();
                    memory.write_obj(now.wrapping_add(1), at).unwrap();
                }
            }
            if !guest.enable_notification(queue)? {
                return guest.signal(queue);
            }
        }
    }
    fn ready(&mut self, _: usize, _: &mut Guest<'_>) -> Result<(), Broken> {
        self.seen.ready.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn settle(&mut self, _: &mut Guest<'_>) -> Result<(), Broken> {
        self.seen.settled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn reset(&mut self) {
        self.seen.resets.fetch_add(1, Ordering::Relaxed);
    }
    fn metrics(&self) -> serde_json::Value {
        self.seen.served.load(Ordering::Relaxed).into()
    }
}

fn probe() -> (Probe, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    *seen.config.lock().unwrap() = (1..=10).collect();
    let source = None;
    (
        Probe {
            seen: Arc::clone(&seen),
            source,
        },
        seen,
    )
}

/// Waits until `done`, at most 10 seconds.
fn wait(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "nothing happened for 10 seconds");
        thread::sleep(Duration::from_millis(1));
    }
}
