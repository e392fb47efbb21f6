//! A page whose tier cannot give it back: the microVM ends, in words and in order. Its guest sees no byte that is
//! not its own, and the monitor neither hangs nor dies of the signal by which the kernel reports such a page.

mod support;

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::control::{Client, Controlled, budget, until};
use support::gmem::{Finished, TempDir};

const MIB: u64 = 1 << 20;
/// How long the end may take: it takes a tenth of a second.
const SOON: Duration = Duration::from_secs(10);

/// The file that holds pages of process `pid`, as a path to it: it has no other, having lost its name.
fn tier_file(pid: i32, dir: &TempDir) -> PathBuf {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let ours = |path: &PathBuf| {
        let target = fs::read_link(path).unwrap_or_default();
        target.starts_with(dir.path()) && target.to_string_lossy().ends_with("(deleted)")
    };
    let mut found = fds.map(|fd| fd.unwrap().path()).filter(ours);
    let path = found.next().expect("the file tier's file is open");
    assert_eq!(found.next(), None, "one file has no name");
    path
}

/// Bytes that the file tier holds.
fn in_file(client: &mut Client) -> u64 {
    let status = client.status();
    let tiers = status["memory"]["tiers"].as_array().unwrap();
    let file = tiers.iter().find(|tier| tier["kind"] == "file").unwrap();
    file["used_bytes"].as_u64().unwrap()
}

/// Runs a guest until its file tier holds a good part of it, cuts the file down to nothing, and returns the
/// end, which must come soon.
fn lose_pages(options: &str, workload: &str) -> (Finished, Value) {
    let dir = TempDir::new();
    let file = format!("file:256M,path={}", dir.path().display());
    let mut all: Vec<&str> = options.split(' ').collect();
    all.extend(["--tier", &file, "--workload", workload]);
    let vm = Controlled::start(&all);
    let mut client = vm.client();
    until("pages are in the file", || {
        (in_file(&mut client) >= 48 * MIB).then_some(())
    });
    client.ask(json!({"command": "pause"}));
    until("it is paused", || {
        (client.status()["state"] == "paused").then_some(())
    });
    // With room for all of the guest nothing is written to the file from here on. A write would let it grow
    // again, and what was cut off would read as zeros, which is no failure that the monitor could see.
    client.ask(budget(256 * MIB));
    thread::sleep(Duration::from_millis(100));
    let left = in_file(&mut client);
    assert!(left >= 16 * MIB, "{left} bytes are in the file");
    let path = tier_file(vm.running.pid(), &dir);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(0).unwrap();
    let cut = Instant::now();
    client.ask(json!({"command": "resume"}));
    let (finished, report) = vm.finish();
    let took = cut.elapsed();
    println!("{options} {workload}: {took:?}: {}", report["message"]);
    assert!(took < SOON, "{options} {workload}: {took:?}");
    assert_eq!(file.metadata().unwrap().len(), 0, "nothing was written");
    assert_eq!(dir.listing(), [""; 0]);
    (finished, report)
}

/// Checks what holds for each end by a lost page; [`Controlled::finish`] and [`lose_pages`] have checked that
/// nothing is left behind.
fn assert_lost(options: &str, workload: &str) {
    let (finished, report) = lose_pages(options, workload);
    // A signal would be no exit code, and fail here.
    assert_eq!(finished.code(), 1, "{options} {workload}: {finished:?}");
    assert_eq!(report["outcome"], "error", "{report}");
    let message = report["message"].as_str().unwrap();
    let (page, why) = message.split_once(" is lost: ").expect(message);
    let number = page
        .strip_prefix("page 0x")
        .and_then(|it| it.split(' ').next());
    let number = u64::from_str_radix(number.expect(message), 16).expect(message);
    assert!(number < 128 * MIB / 4096, "{message}");
    assert!(why.starts_with("tier file: read failed"), "{message}");
    assert!(finished.stderr.contains(message), "{finished:?}");
    assert!(!finished.stderr.contains("panicked at"), "{finished:?}");
    // The guest was given nothing for the page, neither to verify nor to find wrong.
    assert_eq!(report["integrity"]["mismatched_bytes"], 0, "{report}");
    assert!(
        report["guest"].is_null() || report["guest"]["workload"].is_null(),
        "{report}"
    );
    assert!(!finished.stdout.contains("mismatch"), "{finished:?}");
}

#[test]
fn a_lost_page_ends_the_microvm_in_words() {
    assert_lost(
        "--memory 128M --tier host:16M",
        "verify epochs=50 fill=random",
    );
}

#[test]
fn a_lost_page_ends_the_microvm_of_2_vcpus_in_words() {
    assert_lost(
        "--memory 128M --cpus 2 --tier host:16M",
        "verify epochs=50 fill=random",
    );
}

#[test]
fn a_lost_block_of_2_mib_ends_the_microvm_in_words() {
    for cpus in [1, 2] {
        let options = format!("--memory 128M --cpus {cpus} --tier host:32M,unit=2M");
        assert_lost(&options, "verify epochs=50 fill=random");
    }
}

/// There KVM may make the access itself, for its emulator, and gets no signal but an error.
#[test]
fn a_lost_page_that_the_guest_touches_at_cpl_0_ends_the_microvm_in_words() {
    assert_lost("--memory 128M --tier host:16M", "hlt0");
}
