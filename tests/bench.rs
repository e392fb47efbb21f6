//! `gmem bench`: it measures on real KVM, and says what it found in the promised shape. No test of time.

mod support;

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::gmem::{Running, TempDir, command, require_kvm, run};

/// A series of `rounds` values, all above zero; the interval is there from 6 values on.
fn expect_summary(value: &Value, rounds: usize) {
    let number = |key: &str| {
        value[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no {key}: {value}"))
    };
    assert!(number("min") > 0.0, "{value}");
    assert!(number("min") <= number("median") && number("median") <= number("max"));
    for key in ["low95", "high95"] {
        assert_eq!(value[key].is_number(), rounds >= 6, "{key}: {value}");
    }
}

fn expect_header(result: &Value, bench: &str, rounds: u64) {
    assert_eq!(result["schema"], 1);
    assert_eq!(result["bench"], bench);
    assert_eq!(result["rounds"], rounds);
    let host = &result["host"];
    assert!(host["cpus"].as_u64().unwrap() > 0, "{host}");
    for key in ["kernel", "processor", "virtualization", "huge_pages"] {
        assert!(host[key].is_string(), "{key}: {host}");
    }
}

#[test]
fn bench_fault_compares_engine_and_floor() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("fault.json");
    let finished = run(&[
        "bench",
        "fault",
        "--rounds",
        "1",
        "--memory",
        "16M",
        "--passes",
        "1",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("p50, engine over floor"));
    assert!(finished.stderr.contains("round 1/1"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "fault", 1);
    for side in ["floor", "engine"] {
        let figures = &result["figures"][side];
        for key in ["fault_p50_us", "fault_p99_us", "faults"] {
            expect_summary(&figures[key], 1);
        }
        // A quarter of 4096 pages is resident, and pages that were just touched are not touched again.
        let faults = figures["faults"]["median"].as_f64().unwrap();
        assert!(faults > 2000.0, "{side} is oversubscribed: {result}");
    }
    for key in ["fault_p50_over_floor", "fault_p99_over_floor"] {
        expect_summary(&result["ratios"][key], 1);
    }
}

#[test]
fn bench_resident_compares_with_plain_memory() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("resident.json");
    let finished = run(&[
        "bench",
        "resident",
        "--pairs",
        "1",
        "--memory",
        "16M",
        "--seconds",
        "1",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("resident over plain"));
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "resident", 1);
    for side in ["resident", "plain"] {
        expect_summary(&result["figures"][side]["ops_per_sec"], 1);
        expect_summary(&result["figures"][side]["warmup_seconds"], 1);
    }
    expect_summary(&result["ratios"]["resident_over_plain"], 1);
}

#[test]
fn bench_accel_measures_both_kinds() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("accel.json");
    let finished = run(&[
        "bench",
        "accel",
        "--rounds",
        "1",
        "--hbm",
        "2M",
        "--lookups",
        "2000",
        "--rows",
        "1",
        "--epochs",
        "2",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("layers, epoch over bound"));
    assert!(finished.stderr.contains("round 1/1, gpu"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "accel", 1);
    for kind in ["npu", "gpu"] {
        let (figures, ratios) = (&result["figures"][kind], &result["ratios"][kind]);
        for gather in ["gather", "gather_link"] {
            for place in ["adaptive", "first_touch"] {
                for key in ["seconds", "link_bytes"] {
                    expect_summary(&figures[gather][place][key], 1);
                }
            }
            for what in ["bytes", "time"] {
                expect_summary(&ratios[format!("{gather}_{what}_over_first_touch")], 1);
            }
        }
        for key in ["epoch_seconds", "compute_seconds", "transfer_seconds"] {
            expect_summary(&figures["layers"][key], 1);
        }
        for key in ["request_p50_us", "fault_p50_us"] {
            expect_summary(&figures["request"][key], 1);
        }
        for key in ["layers_time_over_bound", "fault_p50_over_request"] {
            expect_summary(&ratios[key], 1);
        }
    }
}

#[test]
fn every_fault_that_the_guest_measures_brings_a_page() {
    require_kvm();
    let dir = TempDir::new();
    let report = dir.path().join("report.json");
    let finished = run(&[
        "run",
        "--memory",
        "32M",
        "--tier",
        "host:40M",
        "--accel",
        "npu,hbm=16M,place=first-touch",
        "--workload",
        "pingpong ops=1 working_set=1M",
        "--report",
        report.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    // As many of them as of commands that do nothing, and an addition by either.
    let commands = report["guest"]["commands"].as_u64().unwrap();
    let faults = report["faults"]["accel"]["count"].as_u64().unwrap();
    assert!(commands >= 100 && faults >= commands / 2, "{report}");
}

#[test]
fn bench_ends_at_once_when_asked_and_leaves_no_file() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("fault.json");
    let running = Running::start(&["bench", "fault", "--json", json.to_str().unwrap()]);
    thread::sleep(Duration::from_millis(700));
    running.signal(libc::SIGINT);
    let finished = running.finish();
    finished.expect_failure(1, &["SIGINT"]);
    assert!(!json.exists());
}

#[test]
fn bench_refuses_a_result_that_it_could_not_write_and_sizes_that_it_cannot_use() {
    require_kvm();
    let unwritable = run(&["bench", "fault", "--json", "/nowhere/at/all.json"]);
    unwritable.expect_failure(2, &["/nowhere/at/all.json", "--json"]);
    for wrong in [["--memory", "1M"], ["--rounds", "0"], ["--passes", "x"]] {
        let finished = run(&["bench", "fault", wrong[0], wrong[1]]);
        assert_eq!(finished.code(), 2, "{finished:?}");
    }
    for wrong in [["--local", "0"], ["--tiers", "file"], ["--against", "x"]] {
        let finished = run(&["bench", "scan", wrong[0], wrong[1]]);
        assert_eq!(finished.code(), 2, "{finished:?}");
    }
    for wrong in [["--hbm", "1M"], ["--rows", "17"], ["--epochs", "1"]] {
        let finished = run(&["bench", "accel", wrong[0], wrong[1]]);
        assert_eq!(finished.code(), 2, "{finished:?}");
    }
}

#[test]
fn bench_policy_counts_misses_and_the_optimum_has_the_fewest() {
    let dir = TempDir::new();
    let json = dir.path().join("policy.json");
    let path = json.to_str().unwrap();
    let finished = run(&[
        "bench", "policy", "--rounds", "1", "--seed", "5", "--json", path,
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "policy", 1);
    let rows = result["figures"]["traces"].as_array().unwrap();
    assert!(rows.len() > 30, "{result}");
    for row in rows {
        let least = row["belady"].as_u64().unwrap();
        for policy in [
            "lru", "clock", "arc", "s3fifo", "sieve", "density", "engine",
        ] {
            assert!(row[policy].as_u64().unwrap() >= least, "{row}");
        }
    }
    for key in ["policy_worst_over_best", "policy_mean_over_best"] {
        expect_summary(&result["ratios"][key], 1);
    }
}

#[test]
fn bench_soak_kills_holders_while_the_guest_runs_and_nothing_is_lost() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("soak.json");
    let path = json.to_str().unwrap();
    let finished = run(&["bench", "soak", "--kills", "3", "--json", path]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let mismatched = format!("{:<24}0\n", "bytes mismatched");
    assert!(finished.stdout.contains(&mismatched), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "soak", 2);
    let figures = &result["figures"];
    assert_eq!(figures["kills"], 3, "{result}");
    assert_eq!(figures["hangs"], 0, "{result}");
    assert_eq!(figures["mismatched_bytes"], 0, "{result}");
    assert_eq!(figures["exit_codes"], serde_json::json!({"0": 2}));
    // In the second round the other one died, after an empty one had been filled.
    let rounds = figures["each"].as_array().unwrap();
    let second = &rounds[1];
    assert!(second["filled_seconds"].as_f64().unwrap() > 0.0, "{second}");
    let died: Vec<_> = second["kills"].as_array().unwrap().iter().collect();
    assert_ne!(died[0]["which"], died[1]["which"], "{second}");
    assert!(
        died.iter().all(|death| death["running"] == true),
        "{second}"
    );
    for round in rounds {
        assert!(round["verified_bytes"].as_u64().unwrap() > 300 << 20);
    }
}

/// Network namespaces that are ours by their names.
fn hosts() -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let output = output.unwrap_or_else(|error| {
        panic!("this test makes network namespaces and needs root and `ip` (iproute2): {error}")
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bench_delay_measures_a_scan_between_two_hosts_and_removes_them() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("delay.json");
    let path = json.to_str().unwrap();
    let running = Running::start(&[
        "bench",
        "delay",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--memory",
        "32M",
        "--json",
        path,
    ]);
    let ours = format!("-{}", running.pid());
    let finished = running.finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("at least 0.8"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    expect_header(&result, "delay", 1);
    for key in ["none", "delay_100us", "delay_1ms"] {
        expect_summary(&result["figures"][format!("{key}_ops_per_sec")], 1);
    }
    for key in ["delay_100us_over_none", "delay_1ms_over_none"] {
        expect_summary(&result["ratios"][key], 1);
    }
    assert!(!hosts().iter().any(|name| name.contains(&ours)));
}

#[test]
fn bench_delay_leaves_no_host_and_no_process_when_it_is_ended() {
    require_kvm();
    let running = Running::start(&["bench", "delay"]);
    let ours = format!("-{}", running.pid());
    thread::sleep(Duration::from_millis(2000));
    let there = hosts();
    let there = there.iter().filter(|name| name.contains(&ours));
    assert_eq!(there.count(), 2);
    running.signal(libc::SIGTERM);
    let finished = running.finish();
    finished.expect_failure(1, &["SIGTERM"]);
    assert!(!hosts().iter().any(|name| name.contains(&ours)));
}

#[test]
fn bench_delay_says_what_it_needs_where_there_are_no_namespaces() {
    require_kvm();
    let mut command = command(&["bench", "delay"]);
    // Without `ip`.
    command.env("PATH", "/nowhere");
    let finished = Running::spawn(command).finish();
    finished.expect_failure(3, &["`ip netns add", "root and iproute2"]);
}

#[test]
fn bench_soak_leaves_nothing_behind_when_it_is_ended() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("soak.json");
    let mut command = command(&["bench", "soak", "--json", json.to_str().unwrap()]);
    // Where all that it makes is made.
    command.env("TMPDIR", dir.path());
    let running = Running::spawn(command);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(dir.listing().len(), 2, "the result, and what it works with");
    running.signal(libc::SIGINT);
    // No process is left either.
    let finished = running.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("SIGINT"), "{finished:?}");
    assert_eq!(dir.listing(), Vec::<String>::new());
}
