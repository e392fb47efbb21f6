//! What all tables have in common.

use crate::bench::Summary;
use crate::bench::host::HostFacts;
use crate::bench::target::Target;

pub(super) fn host_line(host: &HostFacts) -> String {
    format!(
        "Linux {}, {} CPU(s) {}, KVM on {}, huge pages: {}, load {:.1}",
        host.kernel, host.cpus, host.processor, host.virtualization, host.huge_pages, host.load
    )
}

pub(super) fn heading() -> String {
    format!(
        "{:<24}{:>10}{:>10}{:>10}   {}\n",
        "", "median", "min", "max", "95% interval of the median"
    )
}

pub(super) fn row(name: &str, unit: &str, summary: &Summary, digits: usize) -> String {
    let interval = match (summary.low95, summary.high95) {
        (Some(low), Some(high)) => format!("{low:.digits$} to {high:.digits$}"),
        _ => "too few rounds".to_owned(),
    };
    let Summary {
        median, min, max, ..
    } = summary;
    format!("{name:<24}{median:>10.digits$}{min:>10.digits$}{max:>10.digits$}   {interval} {unit}")
        .trim_end()
        .to_owned()
        + "\n"
}

/// `summary` in another unit: so many times each value.
pub(super) fn scaled(summary: &Summary, by: f64) -> Summary {
    Summary {
        median: summary.median * by,
        min: summary.min * by,
        max: summary.max * by,
        low95: summary.low95.map(|low| low * by),
        high95: summary.high95.map(|high| high * by),
    }
}

/// A ratio, with what it should be.
pub(super) fn ratio_row(key: &str, ratio: &Summary) -> String {
    let mut text = row(key, "", ratio, 3);
    if let Some(target) = Target::of(key) {
        text.truncate(text.trim_end().len());
        text += &format!("   {target}: {}\n", target.verdict(ratio.median));
    }
    text
}

/// The same as a row of Markdown.
pub(super) fn markdown_row(key: &str, ratio: &Summary) -> String {
    let Summary {
        median, min, max, ..
    } = ratio;
    let (target, verdict) = match Target::of(key) {
        Some(target) => (target.to_string(), target.verdict(*median)),
        None => Default::default(),
    };
    format!("| `{key}` | {median:.3} ({min:.3} to {max:.3}) | {target} | {verdict} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_an_interval_says_why() {
        let few = row("p50", "us", &Summary::of(&[1.0, 2.0]), 1);
        assert!(
            few.contains("1.5") && few.contains("too few rounds us\n"),
            "{few}"
        );
        let many = row("ratio", "", &Summary::of(&[1.0; 6]), 3);
        assert!(many.ends_with("1.000 to 1.000\n"), "{many}");
    }
}
