//! The few statistics that a handful of ratios from a noisy machine can bear.

/// The median: the middle one, or the mean of the two in the middle; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// An interval that holds the median of what `values` are drawn from with a probability of at least
/// `confidence`, whatever its distribution: the narrowest between two order statistics of the same rank
/// from below and above. `None` if even the least and the largest value do not suffice (fewer than 6 for
/// a confidence of 0.95).
///
/// How many of n independent draws fall below the median is binomially distributed, with p = 1/2: between
/// the k-th smallest and the k-th largest it lies with probability 1 - 2 P(B <= k - 1).
/// H. A. David, H. N. Nagaraja, "Order Statistics", 3rd edition, 2003, section 7.1.
pub fn median_interval(values: &[f64], confidence: f64) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    let draws = sorted.len();
    // P(B = k) for k = 0, then from each k to the next.
    let mut exactly = 0.5_f64.powi(i32::try_from(draws).ok()?);
    let mut at_most = exactly;
    let mut found = None;
    for rank in 0..draws / 2 {
        if 1.0 - 2.0 * at_most < confidence {
            break;
        }
        found = Some((sorted[rank], sorted[draws - 1 - rank]));
        exactly *= (draws - rank) as f64 / (rank + 1) as f64;
        at_most += exactly;
    }
    found
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(n: usize) -> Vec<f64> {
        // Out of order, 1 to n.
        (0..n).map(|i| ((i * 7) % n + 1) as f64).collect()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 5.0, 2.0]), Some(3.5));
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_published_tables() {
        // n, rank from both ends: binomial tables for 95%.
        for (n, rank) in [(6, 1), (9, 2), (12, 3), (15, 4), (20, 6), (25, 8), (30, 10)] {
            let expected = (rank as f64, (n + 1 - rank) as f64);
            assert_eq!(median_interval(&ranks(n), 0.95), Some(expected), "{n}");
        }
    }

    #[test]
    fn too_few_values_have_no_interval() {
        for n in 0..6 {
            assert_eq!(median_interval(&vec![1.0; n], 0.95), None, "{n}");
        }
        assert_eq!(
            median_interval(&[2.0, 1.0, 3.0], 0.75),
            Some((1.0, 3.0)),
            "1 - 2/8 is just 75%"
        );
    }

    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        // Uniform draws by a linear congruential generator; their median is 1/2.
        let mut state = 1u64;
        let mut draw = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let holds = (0..4000)
            .filter(|_| {
                let draws: Vec<f64> = (0..15).map(|_| draw()).collect();
                let (low, high) = median_interval(&draws, 0.95).unwrap();
                low <= 0.5 && 0.5 <= high
            })
            .count();
        // 96.5% are expected; five standard deviations are 1.5%.
        assert!((3800..=3920).contains(&holds), "{holds} of 4000");
    }
}
