//! What ratios should be: SPECIFICATION.md says why.

use std::fmt;

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// So much, or more.
    AtLeast(f64),
    /// So much, or less.
    AtMost(f64),
    /// As much as this or more is aimed for; but this is what is least expected.
    Aim {
        /// What is aimed for.
        aim: f64,
        /// What is least expected.
        least: f64,
    },
}

impl Target {
    /// The target of the ratio `key`; `None` if it has none.
    pub fn of(key: &str) -> Option<Self> {
        let without_tier = key.trim_end_matches("_zip").trim_end_matches("_hbm");
        Some(match without_tier {
            "fault_p50_over_floor" => Self::AtMost(1.1),
            "fault_p99_over_floor" => Self::AtMost(1.3),
            "policy_worst_over_best" => Self::AtMost(1.05),
            "policy_mean_over_best" => Self::AtMost(1.0),
            "scaling_over_floor" => Self::AtLeast(0.9),
            "resident_over_plain" => Self::AtLeast(0.99),
            "scan_25" | "stride_25" => Self::Aim {
                aim: 3.0,
                least: 2.0,
            },
            "scan_avoided" | "stride_avoided" => Self::AtLeast(0.95),
            "hotscan_50" | "hotscan_25" | "phase_50" | "phase_25" => Self::AtLeast(1.5),
            "zipf_50" | "uniform_50" => Self::AtLeast(1.0),
            "evict_cpu_over_swap" => Self::AtMost(0.33),
            "pager_unix_over_memcpy" => Self::AtLeast(0.7),
            "delay_100us_over_none" => Self::AtLeast(0.8),
            "pager_hostile_p99_over_none" => Self::AtMost(2.0),
            "pager_page_over_pingpong" => Self::AtMost(1.5),
            "pager_tcp_over_bare"
            | "pager_redis_get_over_benchmark"
            | "pager_redis_set_over_benchmark" => Self::AtLeast(0.8),
            "evict_total_over_swap" => Self::AtMost(1.0),
            _ => return None,
        })
    }

    /// Whether `found` is what it should be, in words.
    pub fn verdict(self, found: f64) -> &'static str {
        let met = match self {
            Self::AtLeast(least) => found >= least,
            Self::AtMost(most) => found <= most,
            Self::Aim { aim, least } if found < aim && found >= least => return "least met",
            Self::Aim { aim, .. } => found >= aim,
        };
        if met { "met" } else { "missed" }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "at least {least}"),
            Self::AtMost(most) => write!(f, "at most {most}"),
            Self::Aim { aim, least } => write!(f, "{aim}, at least {least}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_meets_its_target_or_does_not() {
        let verdict = |key, found| Target::of(key).unwrap().verdict(found);
        assert_eq!(verdict("scan_25_zip", 3.0), "met");
        assert_eq!(verdict("scan_25_hbm", 2.5), "least met");
        assert_eq!(verdict("stride_25_zip", 1.9), "missed");
        assert_eq!(verdict("evict_cpu_over_swap", 0.33), "met");
        assert_eq!(verdict("zipf_50_hbm", 0.99), "missed");
        assert_eq!(verdict("zipf_50_hbm", f64::NAN), "missed");
        assert_eq!(Target::of("scan_10_zip"), None);
    }
}
