//! Memory that the guest gives back, and memory that it is given.

use std::thread;
use std::time::{Duration, Instant};

use crate::guest::Guest;

const MIB: u64 = 1 << 20;
/// How long the pool waits for reported pages.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn what_the_guest_frees_is_the_pools_again_and_a_balloon_takes_and_gives_back() {
    let guest = Guest::boot(
        &[
            "--memory",
            "512M",
            "--tier",
            "host:384M",
            "--tier",
            "hbm:512M",
            "--balloon",
        ],
        "gmem.test=balloon gmem.mb=200 gmem.seconds=45",
    );
    guest.wait_for("balloon: 0 s:");
    // The guest has just freed 200 MiB that it had written.
    let freed = Instant::now();
    let peak = guest.status()["memory"]["tiers"][0]["peak_bytes"]
        .as_u64()
        .unwrap();
    let mut back = 0;
    while freed.elapsed() < SOON && back < 180 * MIB {
        thread::sleep(Duration::from_millis(100));
        back = peak.saturating_sub(guest.host_used());
    }
    assert!(
        back >= 180 * MIB,
        "{} MiB of 200 came back in {SOON:?}",
        back / MIB
    );

    guest.ctl(&["balloon", "64M"]);
    let actual = |guest: &Guest| guest.status()["balloon"]["actual_bytes"].as_u64().unwrap();
    let until = |what: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !what() {
            assert!(Instant::now() < deadline, "the balloon does not get there");
            thread::sleep(Duration::from_millis(200));
        }
    };
    until(&|| actual(&guest) == 64 * MIB);
    guest.ctl(&["balloon", "0"]);
    until(&|| actual(&guest) == 0);
    guest.end_well(&["balloon"]);
}

#[test]
fn memory_is_plugged_into_a_running_guest_and_out_of_it() {
    let guest = Guest::boot(
        &[
            "--memory",
            "256M",
            "--tier",
            "host:128M",
            "--tier",
            "hbm:512M",
            "--hotplug",
            "256M",
        ],
        "gmem.test=memhotplug gmem.mb=128 gmem.shrink=1 gmem.seconds=200",
    );
    guest.wait_for("waits for 128 MiB");
    guest.ctl(&["plug", "128M"]);
    guest.wait_for("waits for its removal");
    assert_eq!(guest.status()["plugged"]["plugged_bytes"], 128 * MIB);
    guest.ctl(&["plug", "0"]);
    let ended = guest.end_well(&["memhotplug"]);
    assert!(ended.console.contains("MiB used"), "{}", ended.console);
}
