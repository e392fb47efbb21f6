//! Those who hold the pages fail.

use std::path::Path;
use std::time::Duration;
use std::{env, thread};

use super::gmem::{Running, TempDir, require_kvm};
use super::support::Pager;

const GUEST: [&str; 5] = ["run", "--memory", "128M", "--tier", "host:32M"];

fn start(tiers: &[&str], workload: &str) -> Running {
    require_kvm();
    let tiers = tiers.iter().flat_map(|tier| ["--tier", tier]);
    let args: Vec<&str> = GUEST
        .into_iter()
        .chain(tiers)
        .chain(["--workload", workload])
        .collect();
    Running::start(&args)
}

fn succeeds(running: Running) -> String {
    let finished = running.finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert!(
        finished.stderr.contains(" 0 bytes mismatched"),
        "{finished:?}"
    );
    finished.stderr
}

fn at(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

/// Moments that differ from run to run by a known rule.
fn moments(seed: u64) -> impl FnMut(u64) -> Duration {
    let mut state = seed;
    move |most_ms| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((state >> 33) % (1000 * most_ms))
    }
}

#[test]
fn one_of_two_mirrored_holders_is_killed_at_any_moment_and_nothing_is_lost() {
    let kills: u64 = env::var("GMEM_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let dir = TempDir::new();
    let sockets = ["a", "b"].map(|name| dir.path().join(name));
    for kill in 0..kills {
        let mut pagers = sockets
            .each_ref()
            .map(|socket| Some(Pager::at(socket, "128M")));
        let urls = sockets
            .each_ref()
            .map(|socket| format!("url={}", at(socket)));
        let tier = format!("remote:128M,{}", urls.join(","));
        let running = start(&[&tier], &format!("verify epochs=3 seed={}", kill + 1));
        thread::sleep(Duration::from_millis(200) + moments(kill)(2000));
        pagers[kill as usize % 2].take().unwrap().kill();
        let said = succeeds(running);
        println!("kill {kill}: {}", said.lines().last().unwrap_or_default());
    }
}

#[test]
fn one_that_comes_back_empty_is_filled_before_the_other_is_killed() {
    let dir = TempDir::new();
    let sockets = ["a", "b"].map(|name| dir.path().join(name));
    let [first, second] = sockets.each_ref().map(|socket| Pager::at(socket, "128M"));
    let urls = sockets
        .each_ref()
        .map(|socket| format!("url={}", at(socket)));
    let running = start(
        &[&format!("remote:128M,{}", urls.join(","))],
        "verify epochs=12",
    );
    thread::sleep(Duration::from_millis(1000));
    first.kill();
    let again = Pager::at(&sockets[0], "128M");
    // Time to be given all pages; were it too little, the run would end with pages lost.
    thread::sleep(Duration::from_secs(3));
    second.kill();
    succeeds(running);
    drop(again);
}

#[test]
fn without_a_mirror_the_microvm_ends_and_says_what_is_lost() {
    let dir = TempDir::new();
    let socket = dir.path().join("p");
    let pager = Pager::at(&socket, "128M");
    let tier = format!(
        "remote:128M,url={},deadline_ms=500,on_failure=fail",
        at(&socket)
    );
    let running = start(&[&tier], "verify epochs=50");
    thread::sleep(Duration::from_millis(1500));
    pager.kill();
    let finished = running.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    for needle in ["remote", "lost"] {
        assert!(finished.stderr.contains(needle), "{finished:?}");
    }
}

#[test]
fn a_holder_that_is_away_for_a_while_is_waited_for() {
    let dir = TempDir::new();
    let socket = dir.path().join("p");
    let pager = Pager::at(&socket, "128M");
    let running = start(
        &[&format!("remote:128M,url={},deadline_ms=300", at(&socket))],
        "verify epochs=6",
    );
    thread::sleep(Duration::from_millis(1000));
    pager.signal(libc::SIGSTOP);
    thread::sleep(Duration::from_millis(2500));
    pager.signal(libc::SIGCONT);
    succeeds(running);
}

#[test]
fn a_holder_that_is_told_to_end_gives_everything_back_first() {
    let dir = TempDir::new();
    let socket = dir.path().join("p");
    let pager = Pager::at(&socket, "128M");
    let remote = format!("remote:128M,url={}", at(&socket));
    let running = start(&[&remote, "hbm:128M"], "verify epochs=12");
    thread::sleep(Duration::from_millis(1500));
    pager.signal(libc::SIGTERM);
    let (code, said) = pager.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("with 0 pages"), "{said}");
    succeeds(running);
}

#[test]
fn ctrl_c_ends_a_guest_that_waits_for_a_holder_that_does_not_come_back() {
    let dir = TempDir::new();
    let socket = dir.path().join("p");
    let pager = Pager::at(&socket, "128M");
    let running = start(
        &[&format!("remote:128M,url={}", at(&socket))],
        "verify epochs=50",
    );
    thread::sleep(Duration::from_millis(1500));
    pager.kill();
    thread::sleep(Duration::from_millis(500));
    running.signal(libc::SIGINT);
    let finished = running.finish();
    assert_ne!(finished.status.code(), Some(0), "{finished:?}");
}
