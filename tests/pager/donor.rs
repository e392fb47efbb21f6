//! A guest lends memory of its accelerator to other guests.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::gmem::{Finished, Running, TempDir, command, require_kvm, run};
use super::support::{Pager, wait_for};

const OF_THE_DONOR: [&str; 11] = [
    "run",
    "--memory",
    "384M",
    "--tier",
    "host:160M",
    "--tier",
    "zip:256M",
    "--accel",
    "npu,hbm=256M",
    "--workload",
    "donor size=128M",
];

/// A donor at a socket, and whatever else it is told.
fn donor(socket: &Path, more: &[&str]) -> Running {
    require_kvm();
    let donate = at(socket);
    let running = Running::start(&[&OF_THE_DONOR[..], &["--donate", &donate], more].concat());
    wait_for("it listens", || socket.exists());
    running
}

fn at(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

/// A guest of 128 MiB with 32 of them here, and the rest in other tiers.
struct Borrower {
    running: Running,
    api: PathBuf,
}

impl Borrower {
    fn start(dir: &TempDir, tiers: &[&str], workload: &str) -> Self {
        Self::with_memory(dir, "128M", &[&["host:32M"], tiers].concat(), workload)
    }

    fn with_memory(dir: &TempDir, memory: &str, tiers: &[&str], workload: &str) -> Self {
        let api = dir.path().join(format!("{}.sock", dir.listing().len()));
        let tiers = tiers.iter().flat_map(|tier| ["--tier", tier]);
        let args: Vec<&str> = ["run", "--memory", memory]
            .into_iter()
            .chain(tiers)
            .chain(["--workload", workload, "--api-sock", api.to_str().unwrap()])
            .collect();
        let running = Running::start(&args);
        Self { running, api }
    }

    /// Waits until it has read pages of the donor's.
    fn reads(self) -> Self {
        self.moves(("remote", "host"), 500)
    }

    /// Waits until more than so many pages have gone from one tier to another.
    fn moves(self, (from, to): (&str, &str), pages: u64) -> Self {
        let came = || {
            // Whoever asks holds up the one that is asked.
            thread::sleep(Duration::from_millis(300));
            let api = self.api.to_str().unwrap();
            let answer = run(&["ctl", "--api-sock", api, "status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
            let flows = status["migrations"].as_array()?.clone();
            let mut flows = flows.iter();
            let flow = flows.find(|flow| flow["from"] == from && flow["to"] == to)?;
            flow["pages"].as_u64()
        };
        wait_for("pages go that way", || came() > Some(pages));
        self
    }

    fn finish(self) -> Finished {
        self.running.finish()
    }
}

fn verified(finished: &Finished) {
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stderr.contains(" 0 bytes mismatched"),
        "{finished:?}"
    );
}

/// What the donor says of itself in the end.
fn result(finished: &Finished) -> serde_json::Value {
    assert_eq!(finished.code(), 0, "{finished:?}");
    let line = finished.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {finished:?}"))
}

#[test]
fn its_memory_holds_pages_of_another_guest_and_is_zero_in_the_end() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let lends = donor(&socket, &[]);
    let tier = format!("remote:128M,url={}", at(&socket));
    let finished = Borrower::start(&dir, &[&tier], "verify epochs=2").finish();
    verified(&finished);
    assert!(finished.stderr.contains("  remote "), "{finished:?}");
    lends.signal(libc::SIGTERM);
    let ended = lends.finish();
    assert!(ended.stderr.contains("0 clients left"), "{ended:?}");
    let result = result(&ended);
    assert_eq!(
        (&result["clients"], &result["clients_left"]),
        (&1.into(), &0.into()),
        "{result}"
    );
    assert!(result["pages_written"].as_u64() > Some(10_000), "{result}");
    assert!(result["pages_read"].as_u64() > Some(10_000), "{result}");
    // All that was lent was compared with zero.
    assert!(
        result["verified_bytes"].as_u64() >= Some(128 << 20),
        "{result}"
    );
    assert_eq!(result["mismatched_bytes"], 0, "{result}");
    assert_eq!(dir.listing(), Vec::<String>::new());
}

#[test]
fn two_guests_share_what_it_lends_and_a_third_finds_no_room() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let lends = donor(&socket, &[]);
    let tier = format!("remote:64M,url={}", at(&socket));
    let tiers = ["host:20M", &tier];
    let guests = [1, 2].map(|seed| {
        let workload = format!("verify epochs=2 seed={seed}");
        Borrower::with_memory(&dir, "64M", &tiers, &workload).moves(("host", "remote"), 0)
    });
    let args = ["run", "--memory", "64M", "--tier", "host:48M", "--tier"];
    run(&[&args[..], &tiers[1..]].concat()).expect_failure(2, &["room for 0"]);
    for guest in guests {
        verified(&guest.finish());
    }
    lends.signal(libc::SIGTERM);
    let result = result(&lends.finish());
    assert_eq!(result["clients_left"], 0, "{result}");
}

#[test]
fn one_that_is_told_to_end_gives_everything_back_first() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let lends = donor(&socket, &["--drain", "60"]);
    let remote = format!("remote:128M,url={}", at(&socket));
    let running = Borrower::start(&dir, &[&remote, "hbm:128M"], "verify epochs=8").reads();
    lends.signal(libc::SIGTERM);
    let ended = lends.finish();
    assert!(ended.stderr.contains("1 client(s) have 60s"), "{ended:?}");
    let result = result(&ended);
    assert_eq!(result["clients_left"], 0, "{result}");
    assert_eq!(result["mismatched_bytes"], 0, "{result}");
    verified(&running.finish());
}

#[test]
fn ctl_stop_is_an_orderly_end_too() {
    let dir = TempDir::new();
    let [socket, api] = ["d.sock", "api.sock"].map(|name| dir.path().join(name));
    let api = api.to_str().unwrap();
    let lends = donor(&socket, &["--api-sock", api]);
    let tier = format!("remote:128M,url={}", at(&socket));
    let running = Borrower::start(&dir, &[&tier, "hbm:128M"], "verify epochs=3").reads();
    assert_eq!(run(&["ctl", "--api-sock", api, "stop"]).code(), 0);
    let result = result(&lends.finish());
    assert_eq!(result["clients_left"], 0, "{result}");
    verified(&running.finish());
}

#[test]
fn one_whose_clients_stay_ends_when_their_time_is_up() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let lends = donor(&socket, &["--drain", "1"]);
    // It has no other place to put its pages.
    let tier = format!(
        "remote:128M,url={},deadline_ms=500,on_failure=fail",
        at(&socket)
    );
    let running = Borrower::start(&dir, &[&tier], "verify epochs=50").reads();
    lends.signal(libc::SIGTERM);
    let ended = lends.finish();
    assert!(ended.stderr.contains("1 clients left"), "{ended:?}");
    assert_eq!(result(&ended)["clients_left"], 1, "{ended:?}");
    assert_eq!(running.finish().code(), 1);
}

#[test]
fn one_that_is_killed_loses_nothing_where_there_is_a_mirror() {
    let dir = TempDir::new();
    let [socket, other] = ["d.sock", "p.sock"].map(|name| dir.path().join(name));
    let lends = donor(&socket, &[]);
    let pager = Pager::at(&other, "128M");
    let tier = format!("remote:128M,url={},url={}", at(&socket), at(&other));
    let running = Borrower::start(&dir, &[&tier], "verify epochs=3").reads();
    lends.signal(libc::SIGKILL);
    lends.finish();
    verified(&running.finish());
    drop(pager);
}

#[test]
fn one_that_is_killed_without_a_mirror_takes_pages_with_it_and_that_is_said() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let lends = donor(&socket, &[]);
    let tier = format!(
        "remote:128M,url={},deadline_ms=500,on_failure=fail",
        at(&socket)
    );
    let running = Borrower::start(&dir, &[&tier], "verify epochs=50").reads();
    lends.signal(libc::SIGKILL);
    lends.finish();
    let finished = running.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    for needle in ["remote", "lost"] {
        assert!(finished.stderr.contains(needle), "{finished:?}");
    }
}

#[test]
fn what_makes_no_donor_is_refused_with_what_to_do() {
    let dir = TempDir::new();
    let socket = at(&dir.path().join("d.sock"));
    let accel = ["run", "--accel", "npu,hbm=64M"];
    let borrowed = format!("remote:64M,url={socket}");
    let tiers = ["--tier", "host:256M", "--tier", &borrowed];
    let args = [&accel[..], &tiers, &["--donate", &socket]].concat();
    run(&args).expect_failure(2, &["--donate", "--tier remote", "leave one"]);
    for wrong in ["tcp://127.0.0.1:0", "redis://127.0.0.1:1"] {
        let args = [&accel[..], &["--donate", wrong]].concat();
        run(&args).expect_failure(2, &["--donate", "unix:PATH"]);
    }
    let alone = run(&["run", "--donate", &socket]);
    assert_eq!(alone.code(), 2, "{alone:?}");
    assert!(alone.stderr.contains("--accel"), "{alone:?}");
    let refused = |args: &[&str], needles: &[&str]| {
        let finished = run(args);
        assert_eq!(finished.code(), 2, "{finished:?}");
        for needle in needles {
            assert!(finished.stdout.contains(needle), "{needle}: {finished:?}");
        }
    };
    let lends = |size| [&accel[..], &["--donate", &socket, "--workload", size]].concat();
    refused(&lends("donor size=62M"), &["hbm=SIZE", "size="]);
    refused(&lends("donor size=10G"), &["more memory"]);
    let without = [&accel[..], &["--workload", "donor"]].concat();
    refused(&without, &["--donate unix:PATH"]);
    refused(&["run", "--workload", "donor"], &["--accel"]);
    let busy = donor(&dir.path().join("d.sock"), &[]);
    run(&lends("donor")).expect_failure(2, &["--donate", "another process listens"]);
    busy.signal(libc::SIGTERM);
    assert_eq!(busy.finish().code(), 0);
}

#[test]
fn who_asks_a_guest_that_does_not_lend_is_told() {
    let dir = TempDir::new();
    let socket = dir.path().join("d.sock");
    let donate = at(&socket);
    let args = ["run", "--accel", "npu", "--donate", &donate];
    let idle = Running::spawn(command(&[&args[..], &["--workload", "spin"]].concat()));
    wait_for("it listens", || socket.exists());
    let tier = format!("remote:64M,url={donate}");
    run(&[
        "run", "--memory", "64M", "--tier", "host:48M", "--tier", &tier,
    ])
    .expect_failure(3, &["no answer within"]);
    idle.signal(libc::SIGTERM);
    // There is nobody to wait for; the guest does not hear that it is to stop lending, and is stopped.
    assert_eq!(idle.finish().code(), 1);
}
