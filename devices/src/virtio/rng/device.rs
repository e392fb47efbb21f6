//! The device and its queue.

use std::io;
use std::os::fd::RawFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::metrics::Metrics;
use super::request::Request;
use super::state::State;
use crate::virtio::{Broken, Device, Guest, Limiter, Rate};

const QUEUE: usize = 0;
const QUEUE_SIZES: [u16; 1] = [64];

/// Random bytes for the guest, from the host's `getrandom`.
#[derive(Debug)]
pub struct Rng {
    limiter: Limiter,
    metrics: Metrics,
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl Rng {
    /// Random bytes without limit.
    pub fn new() -> Self {
        Self {
            limiter: Limiter::NONE,
            metrics: Metrics::default(),
        }
    }

    /// Random bytes at no more than `rate`. Fails if the host has no timer left.
    pub fn limited(rate: Rate) -> io::Result<Self> {
        Ok(Self {
            limiter: Limiter::new(Some(rate))?,
            metrics: Metrics::default(),
        })
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        State {}
    }

    fn serve(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        while self.limiter.admits() {
            let Some(chain) = guest.pop(QUEUE)? else {
                match guest.enable_notification(QUEUE)? {
                    true => continue,
                    false => break,
                }
            };
            let request = Request::parse(chain)?;
            let filled = request.fill(guest.memory())?;
            let bytes = filled.unwrap_or(0);
            self.limiter.spend(bytes as u64);
            self.metrics.requests += 1;
            self.metrics.bytes += bytes as u64;
            self.metrics.failures += u64::from(filled.is_none());
            guest.give_back(QUEUE, request.head, bytes as u32)?;
            any = true;
        }
        if any {
            guest.signal(QUEUE)?;
        }
        Ok(())
    }
}

impl Device for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn sources(&self) -> Vec<RawFd> {
        self.limiter.source().into_iter().collect()
    }

    fn notified(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.serve(guest)
    }

    fn ready(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.limiter.woken();
        self.serve(guest)
    }

    fn metrics(&self) -> serde_json::Value {
        let metrics = Metrics {
            held_back: self.limiter.held_back(),
            ..self.metrics.clone()
        };
        serde_json::to_value(metrics).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use proptest::prelude::{ProptestConfig, proptest};

    use super::super::request::MAX_BYTES;
    use super::*;
    use crate::virtio::Limit;
    use crate::virtio::testing::{Bench, Part, Used, attacks};

    #[test]
    fn a_buffer_in_pieces_is_filled_with_random_bytes_and_no_further() {
        let mut bench = Bench::started(Rng::new());
        let sent = bench.send(0, &[Part::In(100), Part::In(28)]);
        let beside = bench.buffer(64);
        bench.notify(0).unwrap();
        let head = sent.head;
        assert_eq!(bench.used(0), [Used { head, written: 128 }]);
        assert!(bench.interrupted());
        let mut bytes = bench.part(&sent, 0);
        bytes.extend(bench.part(&sent, 1));
        assert!(
            bytes
                .chunks(32)
                .all(|chunk| chunk != [0xee; 32] && chunk != [0; 32]),
            "each part was filled"
        );
        assert_eq!(bench.memory.bytes(beside, 64), [0; 64]);
    }

    #[test]
    fn a_greedy_request_gets_a_bounded_answer() {
        let mut bench = Bench::started(Rng::new());
        let sent = bench.send(0, &[Part::In(1000), Part::In(100_000)]);
        bench.notify(0).unwrap();
        assert_eq!(bench.used(0)[0].written as usize, MAX_BYTES);
        assert!(
            bench.part(&sent, 1)[MAX_BYTES - 1000..]
                .iter()
                .all(|byte| *byte == 0xee)
        );
    }

    #[test]
    fn a_request_that_brings_bytes_breaks_the_device() {
        let mut bench = Bench::started(Rng::new());
        bench.send(0, &[Part::Out(vec![1]), Part::In(8)]);
        assert!(bench.notify(0).is_err());
    }

    #[test]
    fn the_rate_limit_makes_the_driver_wait_and_then_serves_it() {
        let one = NonZeroU64::new(1).unwrap();
        let mut bench = Bench::started(
            Rng::limited(Rate {
                bytes: None,
                operations: Some(Limit {
                    per_second: NonZeroU64::new(50).unwrap(),
                    burst: one,
                }),
            })
            .unwrap(),
        );
        bench.send(0, &[Part::In(8)]);
        bench.send(0, &[Part::In(8)]);
        bench.notify(0).unwrap();
        assert_eq!(bench.used(0).len(), 1);
        let mut later = 0;
        bench
            .serve_until(|bench| {
                later += bench.used(0).len();
                later == 1
            })
            .unwrap();
        assert!(bench.device.metrics()["held_back"].as_u64().unwrap() >= 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_driver_makes_it_write_beside_guest_memory(attack in attacks()) {
            let mut bench = Bench::started(Rng::new());
            let _ = bench.attack(&attack);
        }
    }
}
