//! Programs of others, with more memory than the host gives.

use std::fs;
use std::time::Duration;
use std::{sync::mpsc, thread};

use crate::guest::Guest;

const MIB: u64 = 1 << 20;

/// RssAnon of process `pid`, bytes; `None` when it is over.
fn rss_anon(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[test]
fn memtester_and_sqlite_find_every_byte_in_one_and_a_half_times_the_budget() {
    let guest = Guest::boot(
        &[
            "--memory",
            "512M",
            "--tier",
            "host:128M",
            "--tier",
            "hbm:512M",
        ],
        "gmem.test=memory,database gmem.mb=192 gmem.rows=20000",
    );
    // From outside: what the process has in private memory beyond the budget is the monitor's own.
    let (pid, (stop, stopped)) = (guest.pid(), mpsc::channel::<()>());
    let most = thread::spawn(move || {
        let mut most = 0;
        while stopped.recv_timeout(Duration::from_millis(20))
            == Err(mpsc::RecvTimeoutError::Timeout)
        {
            most = most.max(rss_anon(pid).unwrap_or(0));
        }
        most
    });
    let ended = guest.end_well(&["memory", "database"]);
    drop(stop);
    let most = most.join().unwrap();
    assert!(
        most <= (128 + 8 + 8) * MIB,
        "{} KiB of private memory",
        most / 1024
    );
    let tiers = &ended.report["memory"]["tiers"];
    assert!(
        tiers[0]["peak_bytes"].as_u64() <= Some(128 * MIB),
        "{tiers}"
    );
    assert!(tiers[1]["peak_bytes"].as_u64() >= Some(32 * MIB), "{tiers}");
    let moved = |from: &str, to: &str| {
        let flows = ended.report["migrations"].as_array().unwrap().iter();
        flows
            .filter(|flow| flow["from"] == from && flow["to"] == to)
            .map(|flow| flow["bytes"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert!(moved("host", "hbm") > 64 * MIB && moved("hbm", "host") > 64 * MIB);
}
