//! A model of the link to a device's memory: latency and bandwidth.
//!
//! The link carries one transfer at a time: a transfer begins when the one before it has left, takes its
//! bytes divided by the bandwidth, and arrives a latency later. Whoever transfers waits for the arrival.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A link with a latency and a bandwidth.
#[derive(Debug)]
pub struct Link {
    latency: Duration,
    /// Picoseconds a byte; 0 is without limit.
    picos_per_byte: u64,
    free_at: Mutex<Option<Instant>>,
}

/// A longer latency is a mistake, and would hang the guest.
const LONGEST_LATENCY_S: f64 = 10.0;
/// A transfer that takes longer likewise.
const LONGEST_TRANSFER: Duration = Duration::from_secs(60);

/// Below this, waiting is done by spinning: a sleep would last longer.
const SPIN_LIMIT: Duration = Duration::from_micros(30);

impl Link {
    /// A link whose transfers arrive `latency_us` microseconds after they left, at `gbps` gigabytes
    /// (10^9 bytes) a second; a bandwidth of 0 is without limit.
    pub fn new(latency_us: f64, gbps: f64) -> Self {
        Self {
            latency: Duration::from_secs_f64(if latency_us > 0.0 {
                (latency_us / 1e6).min(LONGEST_LATENCY_S)
            } else {
                0.0
            }),
            picos_per_byte: if gbps > 0.0 {
                (1000.0 / gbps).max(1.0) as u64
            } else {
                0
            },
            free_at: Mutex::new(None),
        }
    }

    /// Waits for as long as transferring `bytes` that began at `start` takes.
    pub fn transfer(&self, start: Instant, bytes: usize) {
        self.transfer_later(start, bytes, Duration::ZERO);
    }

    /// The same, for a transfer that arrives `latency` later than others do.
    pub fn transfer_later(&self, start: Instant, bytes: usize, latency: Duration) {
        let latency = self.latency + latency;
        if latency.is_zero() && self.picos_per_byte == 0 {
            return;
        }
        let left_at = {
            let mut free_at = self
                .free_at
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let begins = free_at.map_or(start, |free_at| free_at.max(start));
            let takes =
                Duration::from_nanos((bytes as u64).saturating_mul(self.picos_per_byte) / 1000);
            let left_at = begins + takes.min(LONGEST_TRANSFER);
            *free_at = Some(left_at);
            left_at
        };
        wait_until(left_at + latency);
    }
}

fn wait_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN_LIMIT {
            std::thread::sleep(left - SPIN_LIMIT);
        } else {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_no_less_than_its_bytes_and_the_latency() {
        let link = Link::new(200.0, 1.0);
        let start = Instant::now();
        link.transfer(start, 1_000_000);
        assert!(start.elapsed() >= Duration::from_micros(1200));
    }

    #[test]
    fn transfers_queue_for_the_link() {
        let link = Link::new(0.0, 1.0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| link.transfer(start, 500_000));
            }
        });
        assert!(start.elapsed() >= Duration::from_micros(2000));
    }

    #[test]
    fn without_latency_and_limit_it_never_waits() {
        let link = Link::new(0.0, 0.0);
        link.transfer(Instant::now(), usize::MAX / 2);
    }
}
