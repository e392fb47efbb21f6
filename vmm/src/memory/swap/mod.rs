//! The kernel's swap as what holds the memory that does not fit: tier `swap`.
//!
//! The guest has plain memory in a cgroup whose limit is the budget; the kernel chooses what leaves, and brings it back
//! without anybody in user space being asked, which costs a fifth of a fault that is. What it does badly alone it is helped
//! with: who needs a page in a full group must make room himself, 32 pages at a time, so that a vCPU waits half a
//! millisecond for one access in a hundred. A thread here makes the room before it is needed.

mod group;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use group::{Group, Version};

use crate::figures::status_bytes;

/// What the cgroup's limit may be beyond the host budget: for the monitor, and for the kernel on its behalf.
pub const MONITOR: u64 = 16 << 20;
/// How often what the kernel counts is added up.
const ADDING_UP: Duration = Duration::from_millis(20);
/// The shortest and the longest pause between looks at how much room there is.
const NAP: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(20));

/// What swap has, and had at most; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Of the process now.
    pub swapped: u64,
    /// The most there was.
    pub swapped_peak: u64,
    /// The most that guest memory had in RAM.
    pub resident_peak: u64,
}

/// Peaks, as seen every 20 ms.
#[derive(Debug, Default)]
struct Peaks {
    swapped: AtomicU64,
    resident: AtomicU64,
}

/// The kernel's swap with its helpers. Dropping it ends them.
#[derive(Debug)]
pub struct Swapping {
    stop: Arc<AtomicBool>,
    group: Arc<Group>,
    peaks: Arc<Peaks>,
    threads: Vec<JoinHandle<()>>,
}

impl Swapping {
    /// Starts to help this process's cgroup, before its guest runs.
    ///
    /// # Errors
    /// There is no group, or threads cannot be started.
    pub fn start() -> io::Result<Self> {
        let group = Arc::new(Group::of_this_process()?);
        let mut swapping = Self {
            group: Arc::clone(&group),
            stop: Arc::default(),
            peaks: Arc::default(),
            threads: Vec::new(),
        };
        let (helped, stop) = (Arc::clone(&group), Arc::clone(&swapping.stop));
        swapping.spawn("swap-room", move || keep_room(&helped, &stop))?;
        let (stop, peaks) = (Arc::clone(&swapping.stop), Arc::clone(&swapping.peaks));
        // A thread of its own: while the other one reclaims, for as long as that takes, this must go on.
        swapping.spawn("swap-count", move || keep_count(&group, &peaks, &stop))?;
        Ok(swapping)
    }

    /// The file with the group's limit.
    pub fn limit(&self) -> PathBuf {
        self.group.limit_file()
    }

    /// What swap has.
    pub fn used(&self) -> Use {
        let swapped = status_bytes("VmSwap:");
        Use {
            swapped,
            swapped_peak: self.peaks.swapped.load(Ordering::Relaxed).max(swapped),
            resident_peak: self.peaks.resident.load(Ordering::Relaxed),
        }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.into()).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// How much room is little, and how much is made at once, of a limit; bytes.
fn room(limit: u64) -> (u64, u64) {
    const MIB: u64 = 1 << 20;
    (
        (limit / 32).clamp(MIB, 16 * MIB),
        (limit / 128).clamp(MIB / 4, 4 * MIB),
    )
}

/// Keeps room in the group for what vCPUs touch next.
fn keep_room(group: &Group, stop: &AtomicBool) {
    let (shortest, longest) = NAP;
    let (mut nap, mut before) = (shortest, 0);
    while !stop.load(Ordering::Acquire) {
        // A group that cannot be read or reclaimed from is looked at again: the kernel does without us meanwhile.
        let (Ok(Some(limit)), Ok(usage)) = (group.limit(), group.usage()) else {
            thread::park_timeout(longest);
            continue;
        };
        let (little, portion) = room(limit);
        let short = usage + little > limit;
        nap = match (short, short && matches!(group.reclaim(portion), Ok(true))) {
            (true, true) => shortest,
            // There is nothing that could leave.
            (true, false) => longest,
            // Who is quiet is looked at less often.
            (false, _) if usage > before => shortest,
            (false, _) => (nap * 2).min(longest),
        };
        before = usage;
        thread::park_timeout(nap);
    }
}

/// Adds up what the kernel counts, and notes peaks.
fn keep_count(group: &Group, peaks: &Peaks, stop: &AtomicBool) {
    let at_first = status_bytes("RssAnon:");
    while !stop.load(Ordering::Acquire) {
        // Not fatal by itself.
        let _ = group.add_up();
        let resident = status_bytes("RssAnon:").saturating_sub(at_first);
        peaks.resident.fetch_max(resident, Ordering::Relaxed);
        peaks
            .swapped
            .fetch_max(status_bytes("VmSwap:"), Ordering::Relaxed);
        thread::park_timeout(ADDING_UP);
    }
}
