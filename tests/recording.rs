//! On real KVM: what a guest touches is recorded, and policies are simulated on it.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use gmem_core::policy::simulation::recorded::Recording;
use serde_json::Value;
use support::gmem::{Finished, TempDir, require_kvm, run};

const PAGE: u64 = 4096;

/// Runs the bundled guest on 16 MiB, with what it touches recorded in `trace`.
fn record(trace: &Path, options: &[&str], workload: &str) -> (Finished, Value) {
    require_kvm();
    let record = format!("{},window=48", trace.display());
    let mut args = vec!["run", "--memory", "16M", "--record", &record];
    args.extend(["--workload", workload, "--report", "-"]);
    args.extend(options);
    let finished = run(&args);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report = finished.stdout.lines().last().unwrap();
    let report: Value = serde_json::from_str(report).unwrap();
    (finished, report["guest"].clone())
}

fn read(trace: &Path) -> Recording {
    Recording::read(BufReader::new(File::open(trace).unwrap())).unwrap()
}

#[test]
fn what_a_guest_touches_is_recorded_and_simulated() {
    let dir = TempDir::new();
    let trace = dir.path().join("hot.trace");
    let workload = "hotscan ops=20000 warmup=1";
    let (finished, guest) = record(&trace, &[], workload);
    assert_eq!(guest["mismatched_bytes"], 0, "{guest}");
    let recording = read(&trace);
    assert_eq!(recording.window, 48);
    assert_eq!(recording.guest_pages, 16 * (1 << 20) / PAGE);
    let said = format!("recorded {} touches", recording.touches.len());
    assert!(finished.stderr.contains(&said), "{finished:?}");

    // It writes all of what it works with, and the window is far smaller than that.
    let touched: BTreeSet<u32> = recording.touches.iter().copied().collect();
    let last = u64::from(*touched.last().unwrap());
    assert!(last < recording.guest_pages);
    let used = guest["working_set_bytes"].as_u64().unwrap() / PAGE;
    assert!(touched.len() as u64 >= used, "{} {used}", touched.len());
    // A fifth of the operations at least misses what is let in: a tenth of the pages gets nine in ten of them.
    assert!(
        recording.touches.len() as u64 > used + 4000,
        "{}",
        recording.touches.len()
    );
    // First in, first out: a page is touched anew when as many others have come.
    if !finished.stderr.contains("stayed longer") {
        let mut before = HashMap::new();
        for (at, page) in recording.touches.iter().enumerate() {
            if let Some(before) = before.insert(page, at) {
                assert!(at - before > 48, "page {page} at {before} and {at}");
            }
        }
    }

    let json = dir.path().join("policy.json");
    let [path, json] = [&trace, &json].map(|path| path.to_str().unwrap());
    let args = ["bench", "policy", "--rounds", "0", "--trace", path];
    let finished = run(&[&args[..], &["--json", json]].concat());
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("Recorded: misses"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let recorded = result["figures"]["recorded"].as_array().unwrap();
    assert_eq!(recorded.len(), 1, "{result}");
    assert_eq!(recorded[0]["trace"], "hot");
    assert_eq!(recorded[0]["pages"], touched.len());
    assert_eq!(recorded[0]["touches"], recording.touches.len());
    let rows = recorded[0]["rows"].as_array().unwrap();
    let mut before = u64::MAX;
    for row in rows {
        let least = row["belady"].as_u64().unwrap();
        // Each page's first touch misses; the optimum misses no more with more memory.
        assert!(least >= touched.len() as u64 && least <= before, "{row}");
        before = least;
        let policies = [
            "lru",
            "clock",
            "arc",
            "s3fifo",
            "sieve",
            "density",
            "density_faults",
            "density_sampled",
            "engine",
        ];
        for policy in policies {
            let misses = row[policy].as_u64().unwrap();
            assert!(misses >= least, "{policy}: {row}");
            assert!(misses <= recording.touches.len() as u64, "{policy}: {row}");
        }
    }
    assert_eq!(rows.len(), 3);
}

#[test]
fn touches_of_several_vcpus_are_recorded_and_their_memory_stays_right() {
    let dir = TempDir::new();
    let trace = dir.path().join("two.trace");
    let (_, guest) = record(&trace, &["--cpus", "2"], "verify epochs=2");
    assert_eq!(guest["mismatched_bytes"], 0, "{guest}");
    let recording = read(&trace);
    // 32 pages for each vCPU are the least.
    assert_eq!(recording.window, 64);
    let touched: BTreeSet<u32> = recording.touches.iter().copied().collect();
    let used = guest["working_set_bytes"].as_u64().unwrap() / PAGE;
    assert!(touched.len() as u64 >= used, "{} {used}", touched.len());
    // All of it is written and read, in another order, twice.
    assert!(recording.touches.len() as u64 >= 3 * used, "{guest}");
}

#[test]
fn what_is_no_trace_is_an_error_of_the_command_line() {
    let dir = TempDir::new();
    let garbage = dir.file("garbage", &[0x5a; 4096]);
    for (path, needles) in [
        (garbage.as_path(), ["garbage", "no recording of touches"]),
        (Path::new("/nowhere/trace"), ["/nowhere/trace", "No such"]),
    ] {
        let finished = run(&["bench", "policy", "--trace", path.to_str().unwrap()]);
        finished.expect_failure(2, &needles);
    }
}

#[test]
fn a_trace_that_touches_too_little_is_not_simulated() {
    let dir = TempDir::new();
    let trace = dir.path().join("little.trace");
    record(&trace, &[], "none");
    let finished = run(&["bench", "policy", "--trace", trace.to_str().unwrap()]);
    finished.expect_failure(2, &["fewer than 48", "little.trace"]);
}

#[test]
fn a_file_that_cannot_be_written_is_known_before_the_run() {
    let finished = run(&["run", "--record", "/nowhere/trace"]);
    finished.expect_failure(2, &["/nowhere/trace", "--record"]);
    let finished = run(&["run", "--record", "/dev/null,window=7"]);
    assert_eq!(finished.code(), 2, "{finished:?}");
    let finished = run(&["run", "--record", "a", "--tier", "host:16M"]);
    assert_eq!(finished.code(), 2, "{finished:?}");
}

#[test]
fn without_rounds_and_traces_there_is_nothing_to_simulate() {
    let finished = run(&["bench", "policy", "--rounds", "0"]);
    finished.expect_failure(2, &["--rounds", "--trace"]);
}
