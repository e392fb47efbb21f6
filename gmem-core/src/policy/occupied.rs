//! Which clusters may have mapped pages: a bit each, so that a hand passes over the rest of a large address space.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A bit a cluster.
#[derive(Debug)]
pub(super) struct Occupied(Box<[AtomicU64]>);

impl Occupied {
    /// For so many clusters, all of them set.
    pub(super) fn new(clusters: u64) -> Self {
        Self(
            (0..clusters.div_ceil(64))
                .map(|_| AtomicU64::new(u64::MAX))
                .collect(),
        )
    }

    pub(super) fn metadata_bytes(&self) -> u64 {
        size_of_val(&*self.0) as u64
    }

    pub(super) fn set(&self, cluster: u64) {
        let (word, bit) = (&self.0[cluster as usize / 64], 1 << (cluster % 64));
        // Looked at first: most are set, and handlers on other CPUs look too.
        if word.load(Relaxed) & bit == 0 {
            word.fetch_or(bit, Relaxed);
        }
    }

    pub(super) fn clear(&self, cluster: u64) {
        self.0[cluster as usize / 64].fetch_and(!(1 << (cluster % 64)), Relaxed);
    }

    pub(super) fn set_all(&self) {
        for word in &self.0 {
            word.store(u64::MAX, Relaxed);
        }
    }

    /// The first one that is set from `cluster` on; it may be beyond the last cluster.
    pub(super) fn next(&self, cluster: u64) -> Option<u64> {
        let first = cluster as usize / 64;
        let mut skipped = u64::MAX << (cluster % 64);
        for (at, word) in self.0.iter().enumerate().skip(first) {
            let set = word.load(Relaxed) & std::mem::replace(&mut skipped, u64::MAX);
            if set != 0 {
                return Some(at as u64 * 64 + u64::from(set.trailing_zeros()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cleared_is_passed_over_until_it_is_set_again() {
        let occupied = Occupied::new(200);
        (0..256).for_each(|cluster| occupied.clear(cluster));
        assert_eq!(occupied.next(0), None);
        occupied.set(3);
        occupied.set(150);
        assert_eq!(
            (occupied.next(0), occupied.next(4), occupied.next(151)),
            (Some(3), Some(150), None)
        );
    }
}
