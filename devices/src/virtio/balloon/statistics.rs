//! What the guest says of its memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

/// A statistic: its discriminant is its tag in the queue. Units as the specification has them (5.5.6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Memory swapped in, bytes.
    SwapInBytes,
    /// Memory swapped out, bytes.
    SwapOutBytes,
    /// Page faults that waited for a disk.
    MajorFaults,
    /// Page faults that did not.
    MinorFaults,
    /// Memory that nobody uses, bytes.
    FreeBytes,
    /// All memory, bytes.
    TotalBytes,
    /// Memory that can be had without swapping, bytes.
    AvailableBytes,
    /// Caches that can be had back without I/O, bytes.
    CacheBytes,
    /// Huge pages allocated.
    HugePages,
    /// Huge pages that could not be allocated.
    HugePageFailures,
    /// Processes killed for lack of memory.
    OomKills,
    /// Allocations that waited for reclaim.
    AllocationStalls,
    /// Pages scanned in the background.
    BackgroundScannedPages,
    /// Pages scanned by who allocated.
    DirectScannedPages,
    /// Pages reclaimed in the background.
    BackgroundReclaimedPages,
    /// Pages reclaimed by who allocated.
    DirectReclaimedPages,
}

impl Statistic {
    const ALL: [Self; 16] = [
        Self::SwapInBytes,
        Self::SwapOutBytes,
        Self::MajorFaults,
        Self::MinorFaults,
        Self::FreeBytes,
        Self::TotalBytes,
        Self::AvailableBytes,
        Self::CacheBytes,
        Self::HugePages,
        Self::HugePageFailures,
        Self::OomKills,
        Self::AllocationStalls,
        Self::BackgroundScannedPages,
        Self::DirectScannedPages,
        Self::BackgroundReclaimedPages,
        Self::DirectReclaimedPages,
    ];

    /// The statistic with `tag`, if it is known.
    pub(super) fn tagged(tag: u16) -> Option<Self> {
        Self::ALL.get(usize::from(tag)).copied()
    }
}

/// The guest's statistics, as they were once. The guest may say what it likes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Statistics {
    values: BTreeMap<Statistic, u64>,
    #[serde(skip)]
    received: Instant,
}

impl Statistics {
    /// Statistics that arrive now.
    pub(super) fn now(values: impl IntoIterator<Item = (Statistic, u64)>) -> Self {
        Self {
            values: values.into_iter().collect(),
            received: Instant::now(),
        }
    }

    /// One of them, if the guest has it.
    pub fn get(&self, statistic: Statistic) -> Option<u64> {
        self.values.get(&statistic).copied()
    }

    /// How long ago they arrived.
    pub fn age(&self) -> Duration {
        self.received.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_discriminant() {
        for (tag, statistic) in Statistic::ALL.into_iter().enumerate() {
            assert_eq!(statistic as usize, tag);
        }
        assert_eq!(Statistic::tagged(16), None);
    }

    #[test]
    fn statistics_are_a_json_object_with_names_that_say_the_unit() {
        let statistics = Statistics::now([(Statistic::FreeBytes, 5), (Statistic::MajorFaults, 7)]);
        let json = serde_json::to_value(&statistics).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"free_bytes": 5, "major_faults": 7})
        );
    }
}
