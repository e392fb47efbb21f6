//! How much a device may do: a token bucket for bytes and one for operations.
//!
//! A bucket fills at its rate up to its burst. A request is let in while there is at least one token in each
//! bucket, and takes its whole price, on credit if need be: a request that is larger than the burst goes through,
//! and those behind it wait for longer. In any time `t`, a device does at most `burst + rate * t` and one
//! request more.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmm_sys_util::timerfd::TimerFd;

/// What a device may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes moved.
    pub bytes: Option<Limit>,
    /// Requests, of whatever size.
    pub operations: Option<Limit>,
}

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// In each second, on average.
    pub per_second: NonZeroU64,
    /// At once, after a rest.
    pub burst: NonZeroU64,
}

impl Limit {
    /// So much in a second, all of it at once if it must be.
    pub fn per_second(amount: NonZeroU64) -> Self {
        Self {
            per_second: amount,
            burst: amount,
        }
    }
}

/// A token in the bucket's unit: tokens times nanoseconds, so that no fraction is ever lost.
const TOKEN: i128 = 1_000_000_000;

/// A bucket. Times are counted from any moment that stays the same.
#[derive(Clone, Debug)]
struct Bucket {
    limit: Limit,
    level: i128,
    filled: Duration,
}

impl Bucket {
    fn full(limit: Limit) -> Self {
        Self {
            limit,
            level: i128::from(limit.burst.get()) * TOKEN,
            filled: Duration::ZERO,
        }
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        let most = i128::from(self.limit.burst.get()) * TOKEN;
        let more = (passed.as_nanos() as i128).saturating_mul(self.rate());
        self.level = self.level.saturating_add(more).min(most);
        self.filled = self.filled.max(now);
    }

    /// How long there will be no token, after filling.
    fn wait(&self) -> Duration {
        let missing = (TOKEN - self.level).max(0);
        let nanoseconds = (missing + self.rate() - 1) / self.rate();
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(i128::from(amount) * TOKEN);
    }

    fn rate(&self) -> i128 {
        self.limit.per_second.get().into()
    }
}

/// Lets a device go on, or tells it later that it may.
#[derive(Debug)]
pub struct Limiter(Option<Limited>);

#[derive(Debug)]
struct Limited {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    began: Instant,
    timer: TimerFd,
    held_back: u64,
}

impl Limiter {
    /// A limiter that never holds back.
    pub const NONE: Self = Self(None);

    /// A limiter with full buckets. Fails if the host has no timer left.
    pub fn new(rate: Option<Rate>) -> io::Result<Self> {
        let Some(Rate { bytes, operations }) = rate else {
            return Ok(Self::NONE);
        };
        Ok(Self(Some(Limited {
            bytes: bytes.map(Bucket::full),
            operations: operations.map(Bucket::full),
            began: Instant::now(),
            timer: TimerFd::new().map_err(io::Error::from)?,
            held_back: 0,
        })))
    }

    /// A source of the device: readable when it may go on.
    pub fn source(&self) -> Option<RawFd> {
        self.0.as_ref().map(|limited| limited.timer.as_raw_fd())
    }

    /// Whether the device may take a request now. If not, its source becomes readable when it may.
    pub fn admits(&mut self) -> bool {
        let Some(limited) = &mut self.0 else {
            return true;
        };
        let wait = limited.wait(limited.began.elapsed());
        // A timer that cannot be set would never wake the device: better too fast than dead.
        let held = !wait.is_zero() && limited.timer.reset(wait, None).is_ok();
        limited.held_back += u64::from(held);
        !held
    }

    /// A request of `bytes` bytes was taken.
    pub fn spend(&mut self, bytes: u64) {
        if let Some(limited) = &mut self.0 {
            limited.spend(bytes);
        }
    }

    /// The source is readable, perhaps: it is not, after this.
    pub fn woken(&mut self) {
        if let Some(limited) = &mut self.0 {
            // Setting a timer takes back what it has signalled. Reading it could block.
            let _ = limited.timer.clear();
        }
    }

    /// How often the device had to wait.
    pub fn held_back(&self) -> u64 {
        self.0.as_ref().map_or(0, |limited| limited.held_back)
    }
}

impl Limited {
    /// How long to wait for the next request.
    fn wait(&mut self, now: Duration) -> Duration {
        let buckets = [&mut self.bytes, &mut self.operations];
        let waits = buckets.into_iter().flatten().map(|bucket| {
            bucket.fill(now);
            bucket.wait()
        });
        waits.max().unwrap_or_default()
    }

    fn spend(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(per_second: u64, burst: u64) -> Limit {
        Limit {
            per_second: NonZeroU64::new(per_second).unwrap(),
            burst: NonZeroU64::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_rested_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = Bucket::full(limit(10, 3));
        bucket.fill(Duration::from_secs(100));
        for _ in 0..3 {
            assert_eq!(bucket.wait(), Duration::ZERO);
            bucket.take(1);
        }
        assert_eq!(bucket.wait(), Duration::from_millis(100));
        bucket.fill(Duration::from_millis(100_099));
        assert_eq!(bucket.wait(), Duration::from_millis(1));
        bucket.fill(Duration::from_millis(100_100));
        assert_eq!(bucket.wait(), Duration::ZERO);
    }

    #[test]
    fn a_request_larger_than_the_burst_is_let_in_and_paid_for_afterwards() {
        let mut bucket = Bucket::full(limit(1000, 10));
        bucket.take(1010);
        assert_eq!(bucket.wait(), Duration::from_millis(1001));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut bucket = Bucket::full(limit(1, 1));
        bucket.fill(Duration::from_secs(5));
        bucket.take(2);
        bucket.fill(Duration::from_secs(1));
        bucket.fill(Duration::from_secs(5));
        assert_eq!(bucket.wait(), Duration::from_secs(2));
    }

    #[test]
    fn the_emptier_of_two_buckets_decides() {
        let rate = Rate {
            bytes: Some(limit(100, 100)),
            operations: Some(limit(1, 2)),
        };
        let mut limiter = Limiter::new(Some(rate)).unwrap();
        let limited = limiter.0.as_mut().unwrap();
        limited.spend(0);
        assert_eq!(limited.wait(Duration::ZERO), Duration::ZERO);
        limited.spend(299);
        assert_eq!(limited.wait(Duration::ZERO), Duration::from_secs(2));
    }

    #[test]
    fn the_source_is_readable_when_the_device_may_go_on_and_not_before() {
        let rate = Rate {
            bytes: None,
            operations: Some(limit(20, 1)),
        };
        let mut limiter = Limiter::new(Some(rate)).unwrap();
        let readable = |limiter: &Limiter, limit: i32| {
            let mut fd = libc::pollfd {
                fd: limiter.source().unwrap(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut fd, 1, limit) == 1 }
        };
        assert!(limiter.admits());
        limiter.spend(1);
        let began = Instant::now();
        assert!(!limiter.admits());
        assert!(readable(&limiter, 10_000));
        assert!(began.elapsed() >= Duration::from_millis(40));
        assert!(limiter.admits());
        limiter.woken();
        assert!(!readable(&limiter, 0));
        assert_eq!(limiter.held_back(), 1);
    }

    #[test]
    fn no_rate_holds_nothing_back() {
        let mut limiter = Limiter::new(None).unwrap();
        limiter.spend(u64::MAX);
        assert!(limiter.admits());
        assert_eq!(limiter.source(), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// The promise at the head of this file, for every window of every run.
        #[test]
        fn no_window_sees_more_than_burst_and_rate_and_one_request(
            per_second in 1..1_000_000u64,
            burst in 1..100_000u64,
            steps in prop::collection::vec((0..2_000_000_000u64, 0..200_000u64), 1..60),
        ) {
            let mut bucket = Bucket::full(limit(per_second, burst));
            let (mut now, mut taken) = (0u64, Vec::new());
            for (pause, amount) in steps {
                now += pause;
                bucket.fill(Duration::from_nanos(now));
                if bucket.wait().is_zero() {
                    bucket.take(amount);
                    taken.push((now, amount));
                }
            }
            for first in 0..taken.len() {
                let mut sum = 0u128;
                for (end, amount) in &taken[first..] {
                    let time = u128::from(end - taken[first].0);
                    let most = u128::from(burst) * 1_000_000_000 + u128::from(per_second) * time;
                    prop_assert!(sum * 1_000_000_000 <= most);
                    sum += u128::from(*amount);
                }
            }
        }

        /// Who waits as long as he is told is let in, a nanosecond earlier he is not.
        #[test]
        fn the_wait_is_exact(
            per_second in 1..u64::MAX,
            burst in 1..u64::MAX,
            debt in 0..1_000_000_000u64,
        ) {
            let mut bucket = Bucket::full(limit(per_second, burst));
            bucket.take(burst);
            bucket.take(debt);
            let wait = bucket.wait();
            prop_assert!(!wait.is_zero());
            let mut early = bucket.clone();
            early.fill(wait - Duration::from_nanos(1));
            prop_assert!(!early.wait().is_zero());
            bucket.fill(wait);
            prop_assert!(bucket.wait().is_zero());
        }
    }
}
