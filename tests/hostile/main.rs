//! Drivers that follow no rule, in a real guest: nothing suffers but the device that they drive.
//!
//! The bundled guest's workload `hostile` attacks the devices, proves after each round that the device works when it has been
//! reset, that another one worked all the time, and that no memory has changed that no device was told of. Here the host is
//! looked at as well: what the monitor uses, and what it leaves.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use host::{Attack, HOST, Host, LIMIT};
use network::with_network;
use support::gmem::require_kvm;
use support::verified::number;

mod host;
mod network;

#[path = "../support/mod.rs"]
mod support;

/// Attacks on one kind of device, by one CPU and by two at once.
fn attack_one(device: &str) {
    require_kvm();
    let host = Host::new();
    for (seed, cpus) in [(1, 1), (2, 2), (3, 1)] {
        let guest = host.withstand(&Attack {
            device,
            seed,
            cpus,
            ..Attack::default()
        });
        assert_eq!(guest["devices"], 1, "{guest}");
        // With two CPUs it is the same device that they attack, and it is proven once, in the end.
        let proven = if cpus == 1 { 40 } else { 1 };
        assert_eq!(guest["recoveries"], proven, "{guest}");
    }
}

#[test]
fn a_hostile_driver_of_entropy_harms_nothing_else() {
    attack_one("rng");
}

#[test]
fn a_hostile_driver_of_a_disk_harms_nothing_else() {
    attack_one("blk");
}

#[test]
fn a_hostile_driver_of_sockets_harms_nothing_else() {
    attack_one("vsock");
}

#[test]
fn a_hostile_driver_of_an_accelerator_harms_nothing_else() {
    attack_one("xpu");
}

#[test]
fn a_hostile_driver_of_the_door_to_the_memory_system_harms_nothing_else() {
    attack_one("gmem");
}

#[test]
fn a_hostile_driver_of_a_console_harms_nothing_else() {
    attack_one("console");
}

#[test]
fn a_hostile_driver_of_a_balloon_harms_nothing_else() {
    attack_one("balloon");
}

#[test]
fn a_hostile_driver_of_plugged_memory_harms_nothing_else() {
    attack_one("mem");
}

#[test]
fn a_hostile_driver_of_a_network_harms_nothing_else() {
    require_kvm();
    with_network(|| {
        let host = Host::new();
        for (seed, cpus) in [(1, 1), (2, 2), (3, 1)] {
            let guest = host.withstand(&Attack {
                device: "net",
                seed,
                cpus,
                net: true,
                ..Attack::default()
            });
            assert_eq!(guest["devices"], 1, "{guest}");
            assert!(number(&guest["packets"]) > 0, "{guest}");
        }
    });
}

#[test]
fn hostile_drivers_of_all_devices_on_two_cpus_harm_nothing_else() {
    require_kvm();
    with_network(|| {
        let host = Host::new();
        for seed in 11..14 {
            let guest = host.withstand(&Attack {
                seed,
                rounds: 20,
                cpus: 2,
                net: true,
                ..Attack::default()
            });
            assert_eq!(guest["devices"], 9, "{guest}");
            assert_eq!(guest["recoveries"], 9 * 2 * 20, "{guest}");
        }
    });
}

#[test]
fn memory_begins_to_move_under_attack() {
    require_kvm();
    let host = Host::new();
    for cpus in [1, 2] {
        // It fits, and is plain memory, until the budget shrinks.
        let guest = host.withstand(&Attack {
            cpus,
            rounds: 25,
            // Memory that accelerators share moves from the start.
            accelerators: false,
            budget: 64 << 20,
            ..Attack::default()
        });
        assert_eq!(guest["devices"], 6, "{guest}");
        let report = fs::read(host.path("report.json")).unwrap();
        let report: Value = serde_json::from_slice(&report).unwrap();
        assert_eq!(report["memory"]["tiers"][0]["capacity_bytes"], HOST);
        assert!(number(&report["faults"]["cpu"]["count"]) > 0, "{report}");
    }
}

#[test]
fn a_run_that_is_ended_under_attack_ends_and_leaves_nothing() {
    require_kvm();
    let host = Host::new();
    for (seed, signal) in [(1, libc::SIGTERM), (2, libc::SIGINT), (3, libc::SIGTERM)] {
        let running = host.start(&Attack {
            seed,
            cpus: 2,
            rounds: 1_000_000,
            ..Attack::default()
        });
        let deadline = Instant::now() + LIMIT;
        while !Path::new(&host.path("control")).exists() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        // Somewhere in the first devices.
        thread::sleep(Duration::from_millis(200 + 100 * seed));
        let asked = Instant::now();
        running.signal(signal);
        let finished = running.finish();
        assert!(asked.elapsed() < Duration::from_secs(10), "{finished:?}");
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(!finished.stderr.contains("panicked"), "{finished:?}");
        host.check_files();
    }
}
