//! A microVM on real KVM that finds every tier full: nothing is lost, and it can be controlled all the same.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::control::{Client, Controlled, budget, until, with};

const MIB: u64 = 1 << 20;

/// A guest of 512 MiB that has 128 MiB for what does not compress.
const TOO_LARGE: &[&str] = &[
    "--memory",
    "512M,overcommit=allow",
    "--tier",
    "host:64M",
    "--tier",
    "hbm:64M",
    "--workload",
];

/// Waits until an access of the guest waits for room, and the monitor has said so.
fn wait_for_stall(client: &mut Client) {
    // For as long as a stall lasts that is one: a page of zeros that is found gives room for a moment.
    let mut steady = 0;
    until("an access waits for room, and goes on waiting", || {
        let waits = client.status()["waiting"].as_u64()? > 0;
        steady = if waits { steady + 1 } else { 0 };
        thread::sleep(Duration::from_millis(40));
        (steady > 40).then_some(())
    });
}

#[test]
fn a_guest_that_finds_every_tier_full_goes_on_when_its_budget_grows() {
    for workload in ["verify fill=random epochs=1", "hlt0"] {
        let vm = Controlled::start(&with(TOO_LARGE, workload));
        let mut client = vm.client();
        wait_for_stall(&mut client);
        let shown = vm.ctl(&["status"]);
        assert!(shown.stdout.contains("every tier is full"), "{shown:?}");
        // Nothing can leave, so a smaller budget is not reached, which is said.
        let given_up = vm.ctl(&["budget", "32M", "--wait=1"]);
        given_up.expect_failure(1, &["after 1 s", "pages more", "every tier is full"]);
        let raised = vm.ctl(&["budget", "600M"]);
        assert_eq!(raised.code(), 0, "{raised:?}");
        let (finished, _) = vm.finish_verified();
        assert!(
            finished.stderr.contains("every tier is full"),
            "{finished:?}"
        );
        assert!(
            finished.stderr.contains("there is room again"),
            "{finished:?}"
        );
    }
}

#[test]
fn a_stalled_guest_ends_within_a_second_of_a_signal_or_stop() {
    for workload in ["verify fill=random", "hlt0"] {
        for end in ["signal", "stop", "signal during pause"] {
            let vm = Controlled::start(&with(TOO_LARGE, workload));
            let mut client = vm.client();
            wait_for_stall(&mut client);
            if end == "signal during pause" {
                assert!(client.send(b"{\"command\":\"pause\"}\n"));
                thread::sleep(Duration::from_millis(200));
            }
            let asked = Instant::now();
            let needle = if end == "stop" {
                client.ask(json!({"command": "stop"}));
                "stopped by `stop` on"
            } else {
                vm.running.signal(libc::SIGINT);
                "SIGINT"
            };
            let (finished, report) = vm.finish();
            let took = asked.elapsed();
            assert!(took < Duration::from_secs(1), "{workload} {end}: {took:?}");
            assert_eq!(finished.code(), 1, "{workload} {end}: {finished:?}");
            assert_eq!(report["outcome"], "killed");
            let message = report["message"].as_str().unwrap();
            assert!(message.contains(needle), "{message}");
            assert!(message.contains("every tier is full"), "{message}");
            assert!(finished.stderr.contains(message), "{finished:?}");
        }
    }
}

#[test]
fn pausing_a_guest_that_waits_for_room_never_hangs() {
    for workload in ["verify fill=random epochs=1", "hlt0"] {
        let vm = Controlled::start(&with(TOO_LARGE, workload));
        let mut client = vm.client();
        wait_for_stall(&mut client);
        // At CPL3 a signal gets the vCPU out; where the kernel itself waits for the page it does not.
        let answer = client.try_ask(json!({"command": "pause"})).unwrap();
        let state = client.status()["state"].clone();
        if answer["ok"] == false {
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains("pause as soon as they have them"), "{error}");
            assert_eq!(state, "pausing");
        } else {
            assert_eq!(state, "paused");
        }
        client.ask(budget(600 * MIB));
        until("it is paused", || {
            (client.status()["state"] == "paused").then_some(())
        });
        client.ask(json!({"command": "resume"}));
        vm.finish_verified();
    }
}
