//! What moved where, for people.

use std::fmt::Write;
use std::time::Duration;

use gmem_core::engine::Snapshot;

use crate::report::{Integrity, Migration};

/// A number of bytes as people say it: `512.0M`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B");
            return format!("{value:.digits$}{unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1}T")
}

/// `host 128.0M of 128.0M, hbm 384.0M of 512.0M`
pub(super) fn tiers_in_line(snapshot: &Snapshot) -> String {
    let tier = |tier: &gmem_core::engine::TierSnapshot| {
        format!(
            "{} {} of {}",
            tier.name,
            size(tier.used_bytes),
            size(tier.capacity_bytes)
        )
    };
    snapshot
        .tiers
        .iter()
        .map(tier)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The closing tables.
pub(super) fn text(
    snapshot: &Snapshot,
    flows: &[Migration],
    integrity: &Integrity,
    took: Duration,
) -> String {
    let mut text = format!(
        "{} of guest memory, {:.1} s\n\n  {:<10} {:>10} {:>10} {:>10} {:>12}\n",
        size(snapshot.memory_bytes),
        took.as_secs_f64(),
        "tier",
        "capacity",
        "used",
        "peak",
        "guest pages"
    );
    for tier in &snapshot.tiers {
        let (capacity, used) = (size(tier.capacity_bytes), size(tier.used_bytes));
        let (name, peak, pages) = (&tier.name, size(tier.peak_bytes), tier.pages);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {name:<10} {capacity:>10} {used:>10} {peak:>10} {pages:>12}"
        );
    }
    let _ = writeln!(
        text,
        "\n  {:<10} {:<10} {:>10} {:>10}",
        "from", "to", "pages", "bytes"
    );
    for Migration {
        from,
        to,
        pages,
        bytes,
    } in flows
    {
        let _ = writeln!(
            text,
            "  {from:<10} {to:<10} {pages:>10} {:>10}",
            size(*bytes)
        );
    }
    let faults = &snapshot.faults;
    let _ = write!(
        text,
        "\n  {} faults, handled in {:.0} us (median), {:.0} us (p99); {} pages came along",
        faults.count, faults.p50_us, faults.p99_us, snapshot.prefetched_pages
    );
    if integrity.verified_bytes + integrity.mismatched_bytes > 0 {
        let _ = write!(
            text,
            "\n  {} verified by the guest, {} bytes mismatched",
            size(integrity.verified_bytes),
            integrity.mismatched_bytes
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_the_largest_unit_that_keeps_a_digit_before_the_point() {
        let said = [0, 1023, 1024, 512 << 20, 3 << 29, 1 << 41].map(size);
        assert_eq!(said, ["0B", "1023B", "1.0K", "512.0M", "1.5G", "2.0T"]);
    }
}
