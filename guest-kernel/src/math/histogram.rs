//! A log-linear histogram: 32 buckets for each power of two, so a percentile is right to 3%.

const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Largest power of two with buckets of its own: 2^40 cycles are minutes.
const TOP: u32 = 40;
const BUCKETS: usize = SUB * (TOP - SUB_BITS + 2) as usize;

/// Counts of values, here cycles of the TSC.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    pub const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            total: 0,
            max: 0,
        }
    }

    /// Counts `value`. Values of 2^41 and more share the last bucket.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest value, 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value below which `per_mille` thousandths of the values lie, to 3%; 0 if there is none.
    pub fn percentile(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return highest(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let power = value.ilog2();
    if power > TOP {
        return BUCKETS - 1;
    }
    let sub = (value >> (power - SUB_BITS)) as usize - SUB;
    (power - SUB_BITS + 1) as usize * SUB + sub
}

/// The largest value of a bucket.
fn highest(index: usize) -> u64 {
    if index < SUB {
        return index as u64;
    }
    let shift = (index / SUB - 1) as u32;
    (((SUB + index % SUB + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(value in 0u64..1 << 41) {
            let index = bucket(value);
            prop_assert!(value <= highest(index));
            prop_assert!(index == 0 || value > highest(index - 1));
            prop_assert!(highest(index) - value <= value / SUB as u64);
        }
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let (mut low, mut high) = (Histogram::new(), Histogram::new());
        (1..=5_000).for_each(|v| low.record(v));
        (5_001..=10_000).for_each(|v| high.record(v));
        low.merge(&high);
        assert_eq!((low.count(), low.max()), (10_000, 10_000));
        for (per_mille, exact) in [(500, 5_000u64), (990, 9_900), (999, 9_990), (1000, 10_000)] {
            let found = low.percentile(per_mille);
            assert!(
                found >= exact && found <= exact + exact / 32,
                "{per_mille}: {found}"
            );
        }
    }

    #[test]
    fn empty_and_enormous_values() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(500), 0);
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile(500), highest(BUCKETS - 1));
    }
}
