//! Runs of the bundled guest within a budget that is checked from outside.

use std::fs;

use serde_json::Value;

use super::gmem::{Finished, Running, TempDir, require_kvm};
use super::outside::{RssAnon, sample_rss_anon};

/// What the process may have beside its guest's budget.
const BESIDE: u64 = 8 << 20;
/// A run that is over, with all that is known about it.
pub struct Run {
    pub finished: Finished,
    pub report: Value,
    pub rss: RssAnon,
}

/// Starts `gmem run` with the options in `line` (split at blanks) and a workload, and a report in `dir`.
pub fn start(dir: &TempDir, line: &str, workload: &str) -> Running {
    require_kvm();
    let report = dir.path().join("report.json");
    let mut args = vec!["run", "--report", report.to_str().unwrap()];
    args.extend(["--workload", workload]);
    args.extend(line.split(' '));
    Running::start(&args)
}

pub fn run_with(line: &str, workload: &str) -> Run {
    let dir = TempDir::new();
    let running = start(&dir, line, workload);
    let sampler = sample_rss_anon(running.pid());
    let finished = running.finish();
    let report = fs::read(dir.path().join("report.json")).expect("a report is written");
    assert_eq!(dir.listing(), ["report.json"]);
    Run {
        finished,
        report: serde_json::from_slice(&report).unwrap(),
        rss: sampler.join().unwrap(),
    }
}

/// Runs to a success, checks what holds for each, and that no less than `verified` bytes were verified.
pub fn succeed(line: &str, workload: &str, verified: u64) -> Run {
    let run = run_with(line, workload);
    let Run {
        finished,
        report,
        rss,
    } = &run;
    assert_eq!(finished.code(), 0, "{line} {workload}: {finished:?}");
    assert_eq!(report["outcome"], "success", "{line}: {finished:?}");
    assert_eq!(report["integrity"]["mismatched_bytes"], 0, "{line}");
    let checked = number(&report["integrity"]["verified_bytes"]);
    assert!(checked >= verified, "{line}: {checked} bytes verified");
    let budget = number(&tiers(report)[0]["capacity_bytes"]);
    let grown = rss.peak - rss.before;
    assert!(
        grown <= budget + BESIDE,
        "{line}: {grown} bytes of RssAnon beyond {} at the start, budget {budget}",
        rss.before
    );
    // It was looked at, and there was something to see.
    assert!(rss.samples >= 10 && grown > budget / 2, "{line}: {rss:?}");
    run
}

pub fn number(value: &Value) -> u64 {
    let number = value.as_u64();
    number.unwrap_or_else(|| panic!("a whole number was expected: {value}"))
}

pub fn tiers(report: &Value) -> &[Value] {
    report["memory"]["tiers"].as_array().unwrap()
}
