//! What happened, counted.

use crate::page::PAGE_SIZE;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where pages are counted as coming from and going to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Nowhere: a page that was never written, or holds only zeros.
    Zero,
    /// In the arena, evicted, on its way out.
    Staged,
    /// Beneath the guest.
    Host,
    /// Tier `n`, from 1 on.
    Tier(u8),
}

const SITES: usize = 3 + crate::table::Place::MAX_HNODE as usize;

impl Site {
    fn index(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::Staged => 1,
            Self::Host => 2,
            Self::Tier(n) => 2 + usize::from(n),
        }
    }

    fn of_index(index: usize) -> Self {
        match index {
            0 => Self::Zero,
            1 => Self::Staged,
            2 => Self::Host,
            n => Self::Tier((n - 2) as u8),
        }
    }
}

/// Pages that moved from one site to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From here.
    pub from: Site,
    /// To there.
    pub to: Site,
    /// How many pages.
    pub pages: u64,
}

impl Flow {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }
}

/// Latencies in nanoseconds, two significant digits, up to a minute.
#[derive(Debug)]
pub struct Latencies(Mutex<Histogram<u64>>);

impl Latencies {
    fn new() -> Self {
        Self(Mutex::new(empty_histogram()))
    }

    /// Counts one.
    pub fn record(&self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        lock(&self.0).saturating_record(nanos);
    }
}

fn empty_histogram() -> Histogram<u64> {
    // The bounds are constants that the histogram accepts.
    Histogram::new_with_bounds(100, 60_000_000_000, 2)
        .unwrap_or_else(|_| unreachable!("valid bounds"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters of one engine. Written by many threads, read at leisure.
pub struct Stats {
    flows: [[AtomicU64; SITES]; SITES],
    handlers: Mutex<Vec<Arc<Latencies>>>,
    /// Pages that came along with a touched one.
    pub prefetched: AtomicU64,
    /// Of those, pages that the policy knows were used.
    pub prefetch_used: AtomicU64,
    /// Faults that had to make room themselves.
    pub direct_reclaims: AtomicU64,
    /// Faults that had to wait because everything was full.
    pub stalls: AtomicU64,
    /// Pages that could not leave because they were pinned by somebody.
    pub busy: AtomicU64,
    /// Pages that held something when the guest gave them back; the flows to [`Site::Zero`] say where.
    pub freed: AtomicU64,
    /// Blocks that were made one frame of 2 MiB.
    pub promotions: AtomicU64,
    /// Blocks beneath the guest that were one frame, and no longer count as one.
    pub splits: AtomicU64,
    /// Latency of faults that waited for room, from learning of them.
    pub(crate) waited: Arc<Latencies>,
    /// Latency of accelerators' faults.
    pub(crate) device_faults: Latencies,
    /// Writes to a tier that failed; the pages stayed where they were.
    pub store_errors: AtomicU64,
}

/// Latency of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatencySummary {
    /// How many.
    pub count: u64,
    /// Median, microseconds.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Default for Stats {
    fn default() -> Self {
        let waited = Arc::new(Latencies::new());
        Self {
            flows: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            handlers: Mutex::new(vec![Arc::clone(&waited)]),
            waited,
            device_faults: Latencies::new(),
            prefetched: AtomicU64::new(0),
            prefetch_used: AtomicU64::new(0),
            direct_reclaims: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            promotions: AtomicU64::new(0),
            splits: AtomicU64::new(0),
            store_errors: AtomicU64::new(0),
        }
    }
}

impl Stats {
    /// Counts `pages` that moved.
    pub(crate) fn moved(&self, from: Site, to: Site, pages: usize) {
        self.flows[from.index()][to.index()].fetch_add(pages as u64, Ordering::Relaxed);
    }

    /// Counts one more of `what`.
    pub(crate) fn one(what: &AtomicU64) {
        what.fetch_add(1, Ordering::Relaxed);
    }

    /// Where a new fault handler records its latencies.
    pub(crate) fn new_latencies(&self) -> Arc<Latencies> {
        let latencies = Arc::new(Latencies::new());
        lock(&self.handlers).push(latencies.clone());
        latencies
    }

    /// All flows of at least a page.
    pub fn flows(&self) -> Vec<Flow> {
        let mut flows = Vec::new();
        for (from, row) in self.flows.iter().enumerate() {
            for (to, pages) in row.iter().enumerate() {
                let pages = pages.load(Ordering::Relaxed);
                if pages > 0 {
                    flows.push(Flow {
                        from: Site::of_index(from),
                        to: Site::of_index(to),
                        pages,
                    });
                }
            }
        }
        flows
    }

    /// Pages that moved from one site to another.
    pub fn flow(&self, from: Site, to: Site) -> u64 {
        self.flows[from.index()][to.index()].load(Ordering::Relaxed)
    }

    /// Latency of the faults of all handlers together.
    pub fn latency(&self) -> LatencySummary {
        let mut all = empty_histogram();
        for handler in lock(&self.handlers).iter() {
            // Same bounds: nothing to refuse.
            let _ = all.add(&*lock(&handler.0));
        }
        LatencySummary::of(&all)
    }

    /// Latency of the accelerators' faults.
    pub fn device_latency(&self) -> LatencySummary {
        LatencySummary::of(&lock(&self.device_faults.0))
    }
}

impl LatencySummary {
    fn of(all: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        if all.is_empty() {
            return Self::default();
        }
        Self {
            count: all.len(),
            p50_us: micros(all.value_at_quantile(0.5)),
            p99_us: micros(all.value_at_quantile(0.99)),
            p999_us: micros(all.value_at_quantile(0.999)),
            max_us: micros(all.max()),
        }
    }
}
