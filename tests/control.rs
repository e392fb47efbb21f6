//! A running microVM on real KVM, looked at and controlled over its socket.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::control::{Client, Controlled, budget, until, with};
use support::gmem::{TempDir, run};

const MIB: u64 = 1 << 20;

/// A guest that runs until it is ended, on plain memory.
const SPIN: &[&str] = &["--tier", "none", "--memory", "64M", "--workload", "spin"];

#[test]
fn the_budget_changes_at_random_while_every_byte_is_verified() {
    for seed in [1u64, 2] {
        let workload = format!("verify epochs=3 seed={seed}");
        let options = [
            "--memory",
            "512M",
            "--tier",
            "host:128M",
            "--tier",
            "hbm:512M",
            "--workload",
        ];
        let vm = Controlled::start(&with(&options, &workload));
        let mut client = vm.client();
        let (mut random, mut raised, mut lowered, mut last) = (seed, 0, 0, 128);
        let began = Instant::now();
        loop {
            assert!(
                began.elapsed() < Duration::from_secs(90),
                "{}",
                client.status()
            );
            // Knuth's MMIX generator.
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let mib = 8 + (random >> 33) % 540;
            let Some(answer) = client.try_ask(budget(mib * MIB)) else {
                break;
            };
            assert_eq!(answer["ok"], true, "{answer}");
            if mib > last {
                raised += 1
            } else {
                lowered += 1
            }
            last = mib;
            thread::sleep(Duration::from_millis(100));
        }
        assert!(raised > 2 && lowered > 2, "up {raised}, down {lowered}");
        let (_, report) = vm.finish_verified();
        let verified = report["integrity"]["verified_bytes"].as_u64().unwrap();
        assert!(verified >= 1_400_000_000, "{report}");
    }
}

#[test]
fn a_guest_that_fits_is_armed_when_its_budget_shrinks_and_loses_nothing() {
    for paused in [false, true] {
        let vm = Controlled::start(&[
            "--memory",
            "512M",
            "--tier",
            "host:512M",
            "--tier",
            "hbm:512M",
            "--cpus",
            "2",
            "--workload",
            "verify epochs=4",
        ]);
        let mut client = vm.client();
        until("the guest has touched memory", || {
            let status = client.status();
            assert_eq!(status["armed"], false, "{status}");
            (status["memory"]["tiers"][0]["used_bytes"].as_u64()? > 100 * MIB).then_some(())
        });
        if paused {
            client.ask(json!({"command": "pause"}));
        }
        client.ask(budget(128 * MIB));
        let status = client.status();
        assert_eq!(status["armed"], true);
        assert_eq!(status["budget_bytes"], 128 * MIB);
        if paused {
            assert_eq!(status["state"], "paused", "arming keeps the user's pause");
        }
        // Also while it is paused: reclaim does not need the guest.
        let finished = vm.ctl(&["budget", "128M", "--wait=20"]);
        assert_eq!(finished.code(), 0, "{finished:?}");
        if paused {
            client.ask(json!({"command": "resume"}));
        }
        let (_, report) = vm.finish_verified();
        let moved = report["migrations"].as_array().unwrap();
        assert!(moved.iter().any(|flow| flow["to"] == "hbm"), "{report}");
    }
}

#[test]
fn resident_memory_follows_a_lowered_budget_within_seconds() {
    let vm = Controlled::start(&[
        "--memory",
        "256M",
        "--tier",
        "host:256M",
        "--tier",
        "hbm:256M",
        "--workload",
        "uniform ops=1000000000",
    ]);
    until("the guest has filled its memory", || {
        (vm.rss_anon() > 230 * MIB).then_some(())
    });
    let began = Instant::now();
    let finished = vm.ctl(&["budget", "64M", "--wait=10"]);
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(finished.stdout.contains("budget 64.0M"), "{finished:?}");
    // The monitor itself has some, too.
    until("RssAnon is within the budget", || {
        (vm.rss_anon() < (64 + 16) * MIB).then_some(())
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(vm.ctl(&["stop"]).code(), 0);
    let (finished, _) = vm.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
}

#[test]
fn a_paused_guest_stands_still_and_goes_on_where_it_was() {
    // Faults are the guest's progress, seen from outside.
    let vm = Controlled::start(&[
        "--memory",
        "128M",
        "--tier",
        "host:32M",
        "--tier",
        "hbm:128M",
        "--cpus",
        "2",
        "--workload",
        "verify epochs=40",
    ]);
    let mut client = vm.client();
    let faults = |status: &Value| status["faults"]["cpu"]["count"].as_u64().unwrap();
    for _ in 0..5 {
        let before = faults(&client.status());
        until("the guest works", || {
            (faults(&client.status()) > before + 100).then_some(())
        });
        let answer = client.ask(json!({"command": "pause"}));
        assert_eq!(answer["state"], "paused");
        // A handler may still be at the last fault.
        thread::sleep(Duration::from_millis(100));
        let (standing, cpu) = (client.status(), cpu_ticks(&vm));
        thread::sleep(Duration::from_millis(500));
        let later = client.status();
        assert_eq!(later["state"], "paused");
        assert_eq!(faults(&later), faults(&standing));
        assert!(cpu_ticks(&vm) <= cpu + 10, "paused vCPUs take CPU time");
        assert_eq!(client.ask(json!({"command": "resume"}))["state"], "running");
    }
    assert_eq!(vm.ctl(&["pause"]).stdout, "paused\n");
    assert_eq!(vm.ctl(&["resume"]).stdout, "running\n");
    assert_eq!(
        vm.ctl(&["resume"]).stdout,
        "running\n",
        "twice does no harm"
    );
    vm.ctl(&["pause"]);
    let asked = Instant::now();
    vm.running.signal(libc::SIGTERM);
    let (finished, _) = vm.finish();
    assert!(asked.elapsed() < Duration::from_secs(1), "{finished:?}");
    assert!(finished.stderr.contains("SIGTERM"), "{finished:?}");
}

/// User and system time of the process, in hundredths of a second.
fn cpu_ticks(vm: &Controlled) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", vm.running.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[test]
fn stop_ends_the_run_and_says_who_asked() {
    let vm = Controlled::start(SPIN);
    let asked = Instant::now();
    let finished = vm.ctl(&["stop"]);
    assert_eq!((finished.code(), &*finished.stdout), (0, "the run ends\n"));
    let socket = vm.socket();
    let (finished, report) = vm.finish();
    assert!(asked.elapsed() < Duration::from_secs(2));
    let needles = [
        "stopped by `stop` on",
        socket.to_str().unwrap(),
        "process",
        "user",
    ];
    finished.expect_failure(1, &needles);
    assert_eq!(report["outcome"], "killed");
}

#[test]
fn plain_memory_has_no_budget_and_bad_budgets_leave_the_old_one() {
    let vm = Controlled::start(SPIN);
    vm.ctl(&["budget", "64M"])
        .expect_failure(1, &["--tier none", "--tier host:SIZE"]);
    assert_eq!(vm.client().status()["budget_bytes"], Value::Null);
    vm.ctl(&["stop"]);
    vm.finish();
    for host in ["host:64M", "host:32M"] {
        let tiers = [
            "--memory",
            "64M",
            "--tier",
            host,
            "--tier",
            "hbm:48M",
            "--workload",
        ];
        let vm = Controlled::start(&with(&tiers, "spin"));
        let before = vm.client().status()["budget_bytes"].clone();
        vm.ctl(&["budget", "64K"])
            .expect_failure(1, &["64K", "too small"]);
        vm.ctl(&["budget", "8M"])
            .expect_failure(1, &["larger than", "overcommit=allow"]);
        vm.ctl(&["budget", "8X"]).expect_failure(2, &["8X"]);
        let status = vm.client().status();
        assert_eq!(status["budget_bytes"], before);
        assert_eq!(status["state"], "running");
        vm.ctl(&["stop"]);
        vm.finish();
    }
}

#[test]
fn nonsense_gets_an_error_and_others_are_still_served() {
    let vm = Controlled::start(SPIN);
    let mut silent: Vec<Client> = (0..8).map(|_| vm.client()).collect();
    for client in &mut silent {
        client.send(b"{\"comm");
    }
    let garbage: &[&[u8]] = &[
        b"\n",
        b"\xff\xfe\x00\n",
        b"[[[[\n",
        b"{\"command\":\"budget\",\"bytes\":1e99}\n",
        b"GET / HTTP/1.1\r\n",
    ];
    let mut client = vm.client();
    for bytes in garbage {
        assert!(client.send(bytes));
        let answer = client.receive().unwrap();
        assert_eq!(answer["ok"], false, "{answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("one JSON object a line"), "{error}");
        assert_eq!(client.status()["state"], "running");
    }
    // A line without an end: the answer, then the end of the connection.
    let mut endless = vm.client();
    while endless.send(&[b'x'; 1 << 16]) {}
    if let Some(answer) = endless.receive() {
        assert_eq!(answer["ok"], false);
    }
    // A client that asks much and reads nothing.
    let mut deaf = vm.client();
    for _ in 0..200 {
        deaf.send(b"{\"command\":\"status\"}\n");
    }
    assert_eq!(client.status()["state"], "running");
    // Those that never end their request are sent away, also if there are more than are served at a time.
    silent.extend((0..20).map(|_| vm.client()));
    let asked = Instant::now();
    assert_eq!(vm.client().status()["state"], "running");
    assert!(asked.elapsed() < Duration::from_secs(19));
    vm.ctl(&["stop"]);
    vm.finish();
}

#[test]
fn the_socket_is_private_and_never_replaces_what_is_in_use_or_not_a_socket() {
    let vm = Controlled::start(SPIN);
    let mode = fs::metadata(vm.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let socket = vm.socket();
    let second = [&["run", "--api-sock", socket.to_str().unwrap()], SPIN].concat();
    run(&second).expect_failure(2, &["--api-sock", "another process listens"]);
    assert_eq!(vm.client().status()["state"], "running");
    vm.ctl(&["stop"]);
    vm.finish();

    let dir = TempDir::new();
    let file = dir.file("file", b"precious");
    let args = [&["run", "--api-sock", file.to_str().unwrap()], SPIN].concat();
    run(&args).expect_failure(2, &["not a socket", "give another path"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    run(&["ctl", "--api-sock", file.to_str().unwrap(), "status"])
        .expect_failure(2, &["no microVM answers", "--api-sock"]);
    run(&[&["run", "--api-sock", "/nowhere/at/all"], SPIN].concat())
        .expect_failure(2, &["/nowhere/at/all", "exists and is writable"]);

    // What a run that was killed has left is replaced; a start that fails removes what it made.
    let dead = dir.path().join("dead");
    drop(UnixListener::bind(&dead).unwrap());
    let path = dead.to_str().unwrap();
    let failed = run(&[
        "run",
        "--api-sock",
        path,
        "--tier",
        "none",
        "--kernel",
        "/nowhere",
    ]);
    failed.expect_failure(2, &["/nowhere"]);
    assert!(!dead.exists());
}

#[test]
fn the_status_is_readable_and_its_object_is_that_of_the_report() {
    let vm = Controlled::start(&[
        "--memory",
        "64M",
        "--tier",
        "host:16M",
        "--tier",
        "hbm:64M",
        "--workload",
        "verify epochs=100000",
    ]);
    until("pages have moved to hbm", || {
        let shown = vm.ctl(&["status"]);
        assert_eq!(shown.code(), 0, "{shown:?}");
        assert!(
            shown
                .stdout
                .starts_with("running; 64.0M of guest memory, budget 16.0M")
        );
        shown.stdout.contains("to hbm").then_some(())
    });
    let shown = vm.ctl(&["status", "--json"]);
    let status: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(status["armed"], true);
    assert_eq!(status["waiting"], 0);
    vm.ctl(&["stop"]);
    let (_, report) = vm.finish();
    for part in ["memory", "faults"] {
        let names = |value: &Value| -> Vec<String> {
            value[part].as_object().unwrap().keys().cloned().collect()
        };
        assert_eq!(names(&status), names(&report));
    }
    assert_eq!(
        status["memory"]["size_bytes"],
        report["memory"]["size_bytes"]
    );
}
