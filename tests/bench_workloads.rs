//! `gmem bench` of oversubscribed memory: what it finds, and what it leaves behind. No test of time.

mod support;

use std::fs;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::gmem::{Finished, Running, TempDir, require_kvm, run};

/// There is one swap for all tests.
static SWAP: Mutex<()> = Mutex::new(());

/// What a comparison with swap changes on the host.
#[derive(Debug, PartialEq)]
struct HostState {
    swaps: Vec<String>,
    settings: Vec<String>,
    devices: Vec<String>,
    groups: Vec<String>,
    mounts: Vec<String>,
}

impl HostState {
    fn now() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let names = |path: &str, prefix: &str| {
            let entries = fs::read_dir(path).into_iter().flatten();
            let names =
                entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
            let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
            names.sort();
            names
        };
        let used_loops = names("/sys/block", "loop");
        let used_loops = used_loops
            .into_iter()
            .filter(|name| fs::exists(format!("/sys/block/{name}/loop")).unwrap());
        let group = "gmem-bench";
        Self {
            // Without what is used of them: others may be at work.
            swaps: text("/proc/swaps")
                .split_whitespace()
                .filter(|word| word.starts_with('/'))
                .map(str::to_owned)
                .collect(),
            settings: [
                "/proc/sys/vm/page-cluster",
                "/sys/kernel/mm/transparent_hugepage/enabled",
            ]
            .map(text)
            .to_vec(),
            devices: used_loops.chain(names("/sys/block", "zram")).collect(),
            groups: [
                names("/sys/fs/cgroup", group),
                names("/sys/fs/cgroup/memory", group),
            ]
            .concat(),
            mounts: text("/proc/self/mounts")
                .lines()
                .filter(|line| line.contains(group))
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// Whether the host had what a comparison with swap needs. Where it had not, the exit code says so, and this
/// test's output says what was not tested.
fn measured(finished: &Finished) -> bool {
    if finished.code() != 3 {
        return true;
    }
    finished.expect_failure(3, &["swap"]);
    // Not by `eprintln`, of which a test that passes shows nothing.
    let _ = writeln!(
        io::stderr(),
        "not measured here: {}",
        finished.stderr.trim()
    );
    false
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn bench_of_a_workload_compares_with_plain_memory_and_draws() {
    require_kvm();
    let dir = TempDir::new();
    let [json, plot] = ["zipf.json", "zipf.svg"].map(|name| dir.path().join(name));
    let finished = run(&[
        "bench",
        "zipf",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--memory",
        "16M",
        "--local",
        "75,50",
        "--tiers",
        "zip",
        "--json",
        json.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("50% zip, gmem"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(
        (&result["schema"], &result["bench"]),
        (&1.into(), &"zipf".into())
    );
    for share in [50, 75] {
        let slowdown = &result["ratios"][format!("zipf_{share}_zip_slowdown")];
        assert!(number(&slowdown["median"]) > 0.0, "{result}");
        let ours = &result["figures"]["shares"][format!("{share}_zip")]["ours"];
        assert!(number(&ours["ops_per_sec"]["median"]) > 0.0, "{result}");
        assert!(number(&ours["stored_bytes"]["median"]) > 0.0, "{result}");
    }
    let image = fs::read_to_string(plot).unwrap();
    assert!(image.starts_with("<svg") && image.contains("zipf, 16 MiB"));
}

#[test]
fn bench_against_swap_finds_ratios_and_leaves_the_host_as_it_was() {
    require_kvm();
    let _one = SWAP.lock().unwrap_or_else(PoisonError::into_inner);
    let before = HostState::now();
    let dir = TempDir::new();
    let json = dir.path().join("stride.json");
    let finished = run(&[
        "bench",
        "stride",
        "--against",
        "swap",
        "--rounds",
        "2",
        "--seconds",
        "1",
        "--memory",
        "32M",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(HostState::now(), before);
    if !measured(&finished) {
        return;
    }
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(!finished.stderr.contains("not undone"), "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    for tier in ["zip", "hbm"] {
        let ratio = &result["ratios"][format!("stride_25_{tier}")];
        assert!(number(&ratio["min"]) > 0.0, "{result}");
        let share = &result["figures"]["shares"][format!("25_{tier}")];
        // Three quarters of the memory are not local, though pages of zeros may take no swap.
        let away = 32.0 * 0.6 * f64::from(1 << 20);
        assert!(
            number(&share["swap"]["swapped_bytes"]["min"]) > away,
            "{result}"
        );
        assert_eq!(
            number(&share["ours"]["swapped_bytes"]["max"]),
            0.0,
            "{result}"
        );
        assert!(share["tuning"]["device"].is_string(), "{result}");
    }
    let avoided = &result["ratios"]["stride_avoided"];
    assert!(number(&avoided["max"]) <= 1.0, "{result}");
}

#[test]
fn bench_against_swap_that_is_interrupted_leaves_the_host_as_it_was() {
    require_kvm();
    let _one = SWAP.lock().unwrap_or_else(PoisonError::into_inner);
    let before = HostState::now();
    // By then the first is about to start a guest, the second swaps.
    for delay in [100, 2500] {
        let running = Running::start(&["bench", "scan", "--against", "swap", "--tiers", "hbm"]);
        thread::sleep(Duration::from_millis(delay));
        running.signal(libc::SIGINT);
        let finished = running.finish();
        assert_eq!(HostState::now(), before);
        if measured(&finished) {
            assert_eq!(finished.code(), 1, "{finished:?}");
            assert!(
                finished
                    .stderr
                    .ends_with("ended by SIGINT before there was a result\n"),
                "{finished:?}"
            );
        }
    }
}

#[test]
fn bench_evict_says_what_a_page_costs() {
    require_kvm();
    let dir = TempDir::new();
    let json = dir.path().join("evict.json");
    let finished = run(&[
        "bench",
        "evict",
        "--rounds",
        "1",
        "--memory",
        "32M",
        "--json",
        json.to_str().unwrap(),
    ]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    let result: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    let ours = &result["figures"]["ours"];
    // Of 20 MiB 8 are local.
    assert!(
        number(&ours["evicted_pages"]["median"]) > 2000.0,
        "{result}"
    );
    assert!(ours["waited_us"]["median"].is_number() && ours["total_us"]["median"].is_number());
}
