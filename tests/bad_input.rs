//! Wrong command lines, hosts that lack something, guests that misbehave: one line says what and what to do,
//! the exit code says whose fault it is, and nothing is left behind.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::gmem::{Finished, Running, TempDir, require_kvm, run};
use support::sandbox::Sandbox;

/// However a run goes wrong before its guest starts, it does so at once.
const AT_ONCE: Duration = Duration::from_secs(5);

const OVERSUBSCRIBED: [&str; 4] = ["--tier", "host:32M", "--tier", "hbm:128M"];

/// Runs `gmem run` with `options` on a host that is made as `sandbox` says, in a directory of its own.
/// Checks that it ended at once, without a trace of a panic, and left no file there.
fn run_on(sandbox: Sandbox, options: &[&str]) -> Finished {
    let dir = TempDir::new();
    let mut args = vec!["run"];
    args.extend(options);
    let mut command = sandbox.command(&args);
    command.current_dir(dir.path()).env("TMPDIR", dir.path());
    let started = Instant::now();
    let finished = Running::spawn(command).finish();
    assert!(started.elapsed() < AT_ONCE, "{options:?}: {finished:?}");
    assert_eq!(dir.listing(), [""; 0], "{options:?}");
    assert!(!finished.stderr.contains("panicked at"), "{finished:?}");
    finished
}

/// The same, refused with `code` and one line that contains all of `needles`.
fn refused(sandbox: Sandbox, options: &[&str], code: i32, needles: &[&str]) {
    let finished = run_on(sandbox, options);
    finished.expect_failure(code, needles);
    // The parser of the command line adds where to read more.
    let more = |line: &&str| !line.is_empty() && !line.starts_with("For more information");
    let lines: Vec<_> = finished.stderr.lines().filter(more).collect();
    assert_eq!(lines.len(), 1, "{options:?}: {lines:?}");
    assert_eq!(finished.stdout, "", "{options:?}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn tiers_that_make_no_sense_end_with_2_and_a_remedy() {
    for (tiers, needles) in [
        (&["ram:1G"][..], &["'ram'", "host, hbm, zip, file"][..]),
        (&["HOST:1G"], &["'HOST'", "host, hbm, zip, file"]),
        (&[":1G"], &["''", "host, hbm, zip, file"]),
        (&[""], &["''", "host, hbm, zip, file"]),
        (&["remote:1G"], &["remote tier", "url=unix:PATH"]),
        (&["host"], &["'host'", "no size"]),
        (&["host:"], &["no size"]),
        (&["host:lots"], &["'lots'", "512M"]),
        (&["host:-1M"], &["'-1M'", "512M"]),
        (&["host:1.5G"], &["'1.5G'", "512M"]),
        (&["host:0"], &["zero", "4K"]),
        (&["host:128M", "hbm:0"], &["zero", "4K"]),
        (&["host:5000"], &["5000", "4096"]),
        (&["host:99999999999G"], &["give less"]),
        (&["host:4K", "hbm:1G"], &["budget of 4K", "too small"]),
        (&["hbm:1G"], &["the first tier is hbm", "--tier host:SIZE"]),
        (&["hbm:1G", "host:128M"], &["the first tier is hbm"]),
        (&["host:128M", "host:128M"], &["more than one host"]),
        (&["host:128M", "none"], &["none", "one or the other"]),
        (&["host:128M,unit=1G"], &["unit=1G", "unit=4K or unit=2M"]),
        (&["host:3M,unit=2M"], &["3M", "multiple of 2M"]),
        (&["host:128M,size=2M"], &["'size'", "unit"]),
        (&["host:128M,unit"], &["'unit'", "key=value"]),
        (&["host:128M,unit=4K,unit=4K"], &["'unit'", "twice"]),
        (&["host:128M", "hbm:1G,gbps=-1"], &["gbps=-1", "positive"]),
        (&["host:128M", "zip:1G,level=3"], &["'level'", "zip"]),
        (&["host:128M", "file:1G"], &["path=FILE"]),
        (&["host:128M", "swap:1G", "zip:1G"], &["and no other"]),
        (&["host:128M", "swap:256M"], &["384M", "make a tier larger"]),
        (&["host:128M", "file:1G,path="], &["path=FILE"]),
        (
            &["host:128M", "file:1G,path=a", "file:1G,path=a"],
            &["the file a;", "its own"],
        ),
        (
            &["host:128M", "hbm:256M"],
            &["392704K", "512M", "make a tier larger"],
        ),
    ] {
        let mut options = vec!["--memory", "512M"];
        for tier in tiers {
            options.extend(["--tier", tier]);
        }
        refused(Sandbox::new(), &options, 2, needles);
    }
}

#[test]
fn wrong_options_end_with_2_and_a_remedy() {
    for (options, needles) in [
        (&["--memory", "lots"][..], &["'lots'", "512M"][..]),
        (&["--memory", "0"], &["zero"]),
        (&["--memory", "1000"], &["4096"]),
        (&["--memory", "99999999999G"], &["give less"]),
        (
            &["--memory", "512M,overcommit=maybe"],
            &["overcommit=allow"],
        ),
        (&["--tier", "host:64M"], &["combined"]),
        (&["--cpus", "0"], &["--cpus"]),
        (&["--cpus", "255"], &["--cpus"]),
        (
            &["--report", "/nowhere/report.json"],
            &["/nowhere/report.json", "writable"],
        ),
        (&["--report", "/"], &["--report"]),
        (&["--workload", "verify", "--kernel", "x"], &["--workload"]),
        (&["--initrd", "x"], &["--kernel"]),
        (&["--nonsense"], &["--nonsense"]),
    ] {
        let mut args = vec!["run", "--tier", "none"];
        args.extend(options);
        let finished = run(&args);
        assert_eq!(finished.code(), 2, "{options:?}: {finished:?}");
        for needle in needles {
            assert!(
                finished.stderr.contains(needle),
                "{options:?}: {finished:?}"
            );
        }
        assert_eq!(finished.stdout, "");
    }
}

#[test]
fn a_workload_that_the_guest_does_not_know_is_a_wrong_command_line() {
    require_kvm();
    for workload in [
        "nothing",
        "verify epochs=0",
        "verify colour=red",
        "scan seconds",
    ] {
        let mut options = vec!["--memory", "128M", "--workload", workload];
        options.extend(OVERSUBSCRIBED);
        let finished = run_on(Sandbox::new(), &options);
        assert_eq!(finished.code(), 2, "{workload}: {finished:?}");
        cause(&finished, &["workload", "--workload"]);
    }
}

/// The one line of stderr that names the cause: the last, behind what was measured until then.
fn cause(finished: &Finished, needles: &[&str]) {
    let line = finished.stderr.lines().last().unwrap_or_default();
    assert!(line.starts_with("gmem: "), "{finished:?}");
    for needle in needles {
        assert!(line.contains(needle), "no '{needle}' in: {finished:?}");
    }
}

#[test]
fn a_host_without_kvm_ends_with_3() {
    for tiers in [&OVERSUBSCRIBED[..], &["--tier", "none"]] {
        let masked = Sandbox::new().mask("/dev/kvm");
        refused(
            masked,
            tiers,
            3,
            &["lacks kvm", "load kvm_intel or kvm_amd", "gmem check"],
        );
        let gone = Sandbox::new().small(Path::new("/dev"), "1M");
        refused(
            gone,
            tiers,
            3,
            &["lacks kvm", "/dev/kvm", "No such file", "gmem check"],
        );
    }
}

/// A host on which no door to userfaultfd is open.
fn without_userfaultfd() -> Sandbox {
    let sysctl = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    assert_eq!(
        sysctl.trim(),
        "0",
        "this test closes every door to userfaultfd, and needs vm.unprivileged_userfaultfd=0"
    );
    let sandbox = Sandbox::new().without_ptrace();
    match Path::new("/dev/userfaultfd").exists() {
        true => sandbox.mask("/dev/userfaultfd"),
        false => sandbox,
    }
}

#[test]
fn a_host_without_userfaultfd_ends_with_3_where_memory_is_to_be_managed() {
    require_kvm();
    let needles = [
        "lacks userfaultfd",
        "CAP_SYS_PTRACE",
        "sysctl",
        "gmem check",
    ];
    refused(without_userfaultfd(), &OVERSUBSCRIBED, 3, &needles);
    let absent = without_userfaultfd().refuse(libc::SYS_userfaultfd, libc::ENOSYS);
    let needles = ["lacks userfaultfd", "CONFIG_USERFAULTFD", "gmem check"];
    refused(absent, &OVERSUBSCRIBED, 3, &needles);
    // Plain memory does without.
    let options = ["--tier", "none", "--memory", "64M", "--workload", "none"];
    let finished = run_on(without_userfaultfd(), &options);
    assert_eq!(finished.code(), 0, "{finished:?}");
}

#[test]
fn a_kernel_older_than_6_8_ends_with_3() {
    require_kvm();
    let needles = ["lacks linux", "Linux 2.6", "boot Linux 6.8 or newer"];
    refused(Sandbox::new().old_kernel(), &OVERSUBSCRIBED, 3, &needles);
}

#[test]
fn a_file_tier_without_room_ends_with_3_and_the_bytes() {
    require_kvm();
    let dir = TempDir::new();
    for place in [dir.path().to_owned(), dir.path().join("tier")] {
        let tier = format!("file:512M,path={}", path(&place));
        let options = ["--tier", "host:32M", "--tier", &tier];
        let needles = ["no room", "room for 512M", path(&place), "free some"];
        refused(
            Sandbox::new().small(dir.path(), "16M"),
            &options,
            3,
            &needles,
        );
    }
}

#[test]
fn a_file_tier_where_none_can_be_made_ends_with_2() {
    require_kvm();
    let dir = TempDir::new();
    let exists = dir.file("exists", b"somebody's");
    let nowhere = dir.path().join("nowhere/tier");
    for (place, needles) in [
        (
            exists.as_path(),
            &["exists", "name a file that does not"][..],
        ),
        (&nowhere, &["No such file", "can be written"]),
        (Path::new("/proc"), &["can be written"]),
    ] {
        let tier = format!("file:512M,path={}", path(place));
        let options = ["--tier", "host:32M", "--tier", &tier];
        let mut all = vec![path(place)];
        all.extend(needles);
        refused(Sandbox::new(), &options, 2, &all);
    }
    assert_eq!(fs::read(&exists).unwrap(), b"somebody's");
    assert_eq!(dir.listing(), ["exists"]);
    for place in [dir.path().to_owned(), dir.path().join("tier")] {
        let tier = format!("file:512M,path={}", path(&place));
        let options = ["--tier", "host:32M", "--tier", &tier];
        let sandbox = Sandbox::new().read_only(dir.path());
        refused(sandbox, &options, 2, &["Read-only", "can be written"]);
        let report = ["--report", path(&place)];
        refused(
            Sandbox::new().read_only(dir.path()),
            &report,
            2,
            &["--report", "writable"],
        );
    }
}

/// A file system of 32M in `dir` that does not say that it has no room until it is full.
fn fills_later(dir: &TempDir) -> Sandbox {
    let sandbox = Sandbox::new().small(dir.path(), "32M");
    sandbox.refuse(libc::SYS_fallocate, libc::EOPNOTSUPP)
}

#[test]
fn a_disk_that_fills_while_the_guest_runs_is_a_full_tier_and_the_next_one_takes_over() {
    require_kvm();
    let dir = TempDir::new();
    let tier = format!("file:128M,path={}", path(dir.path()));
    let mut args = vec![
        "run", "--memory", "128M", "--report", "-", "--tier", "host:32M",
    ];
    args.extend(["--tier", &tier, "--tier", "hbm:128M"]);
    args.extend(["--workload", "verify epochs=2 fill=random"]);
    let finished = Running::spawn(fills_later(&dir).command(&args)).finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["integrity"]["mismatched_bytes"], 0);
    assert!(report["integrity"]["verified_bytes"].as_u64() > Some(240_000_000));
    let used = |at: usize| {
        report["memory"]["tiers"][at]["peak_bytes"]
            .as_u64()
            .unwrap()
    };
    assert!(used(1) <= 33 << 20 && used(1) >= 31 << 20, "{report}");
    assert!(used(2) >= 60 << 20, "{report}");
}

#[test]
fn a_disk_that_fills_while_the_guest_runs_and_nothing_else_has_room_makes_it_wait() {
    require_kvm();
    let dir = TempDir::new();
    let tier = format!("file:128M,path={}", path(dir.path()));
    let mut args = vec![
        "run", "--memory", "128M", "--report", "-", "--tier", "host:32M",
    ];
    args.extend(["--tier", &tier, "--workload", "verify fill=random"]);
    let running = Running::spawn(fills_later(&dir).command(&args));
    thread::sleep(Duration::from_secs(2));
    let asked = Instant::now();
    running.signal(libc::SIGINT);
    let finished = running.finish();
    let took = asked.elapsed();
    assert!(took < Duration::from_millis(1_100), "{took:?} {finished:?}");
    assert_eq!(finished.code(), 1, "{finished:?}");
    cause(
        &finished,
        &["SIGINT", "every tier is full", "nothing is lost"],
    );
    assert!(finished.stderr.contains("wait for room"), "{finished:?}");
    let report: Value = serde_json::from_str(finished.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["outcome"], "killed");
}

#[test]
fn a_guest_that_misbehaves_on_oversubscribed_memory_is_named() {
    require_kvm();
    for (workload, needles) in [
        ("triple", &["triple-faulted", "rip 0x"][..]),
        ("wild", &["outside its memory", "134217728", "rip 0x"]),
        (
            "wild at=0x100000000",
            &["outside its memory", "0x100000000"],
        ),
    ] {
        let mut options = vec!["--memory", "128M", "--workload", workload];
        options.extend(OVERSUBSCRIBED);
        let finished = run_on(Sandbox::new(), &options);
        assert_eq!(finished.code(), 1, "{workload}: {finished:?}");
        cause(&finished, needles);
    }
}

#[test]
fn a_guest_that_loops_on_oversubscribed_memory_ends_within_a_second_of_a_signal() {
    require_kvm();
    for (workload, signal, name) in [
        ("spin", libc::SIGINT, "SIGINT"),
        ("spin", libc::SIGTERM, "SIGTERM"),
        ("verify epochs=1000", libc::SIGTERM, "SIGTERM"),
        ("hlt0", libc::SIGINT, "SIGINT"),
    ] {
        let dir = TempDir::new();
        let report = dir.path().join("report.json");
        let mut args = vec!["run", "--cpus", "2", "--memory", "128M"];
        args.extend(["--workload", workload, "--report", path(&report)]);
        args.extend(OVERSUBSCRIBED);
        let running = Running::start(&args);
        thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        running.signal(signal);
        let finished = running.finish();
        assert!(asked.elapsed() < Duration::from_secs(1), "{finished:?}");
        assert_eq!(finished.code(), 1, "{workload}: {finished:?}");
        cause(&finished, &["killed by", name, "rip 0x"]);
        let report: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["outcome"], "killed", "{workload}");
        assert_eq!(dir.listing(), ["report.json"]);
    }
}

#[test]
fn a_limit_on_file_sizes_is_an_error_like_any_other() {
    require_kvm();
    let place = TempDir::new();
    let file = format!("file:64M,path={}", path(place.path()));
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 1000 && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_gmem"))
        .args([
            "run", "--memory", "64M", "--tier", "host:16M", "--tier", &file,
        ])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr.contains("no room for 64M"), "{stderr}");
    assert_eq!(place.listing(), [""; 0]);
}
