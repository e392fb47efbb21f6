//! Accelerators in a guest's address space, on real KVM: operands are pointers, memory is oversubscribed, vCPUs write to the
//! same pages, and every result is the vCPU's own, bit for bit.

mod support;

use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::control::Controlled;
use support::gmem::{TempDir, run};
use support::verified::{Run, number, run_with, start, succeed, tiers};

/// A guest a quarter of whose memory fits the host, a sixteenth each accelerator.
const SMALL: &str = "--memory 256M --cpus 2 --tier host:64M --tier hbm:64M --tier zip:256M \
    --accel npu,hbm=16M --accel gpu,hbm=16M";

/// The accelerators' numbers, by the names of their virtio devices.
fn link(report: &Value, device: &str) -> Value {
    let devices = report["devices"].as_array().unwrap();
    let of = devices.iter().find(|it| it["name"] == device);
    of.unwrap_or_else(|| panic!("no {device}: {report}"))["counters"]["link"].clone()
}

fn crossed(report: &Value, device: &str) -> u64 {
    let link = link(report, device);
    ["migrated_in", "migrated_out", "copied_in", "remote"]
        .iter()
        .map(|what| number(&link[format!("{what}_bytes")]))
        .sum()
}

/// A run on [`SMALL`] that succeeds, with work for both accelerators.
fn work(options: &str, workload: &str) -> Run {
    let run = succeed(&format!("{SMALL}{options}"), workload, 10 << 20);
    let report = &run.report;
    assert_eq!(report["guest"]["accelerators"], 2, "{report}");
    assert!(number(&report["faults"]["accel"]["count"]) > 0, "{report}");
    for device in ["npu0", "gpu0"] {
        assert!(crossed(report, device) > 1 << 20, "{report}");
    }
    for name in ["npu", "gpu"] {
        let tier = tiers(report).iter().find(|it| it["name"] == name).unwrap();
        assert_eq!(tier["kind"], "hbm");
        let (peak, capacity) = (&tier["peak_bytes"], &tier["capacity_bytes"]);
        assert!(
            number(peak) > 0 && number(peak) <= number(capacity),
            "{tier}"
        );
        assert!(number(capacity) <= 16 << 20, "{tier}");
    }
    run
}

/// A run that succeeds, however much memory it uses.
fn passes(line: &str, workload: &str) -> Value {
    let run = run_with(line, workload);
    let (finished, report) = (&run.finished, &run.report);
    assert_eq!(finished.code(), 0, "{line} {workload}: {finished:?}");
    assert_eq!(report["integrity"]["mismatched_bytes"], 0, "{report}");
    assert!(
        number(&report["integrity"]["verified_bytes"]) > 1 << 20,
        "{report}"
    );
    run.report
}

#[test]
fn rows_are_looked_up_by_both_while_vcpus_write_to_the_same_pages() {
    let run = work("", "gather seed=1 ops=20000");
    let guest = &run.report["guest"];
    assert!(number(&guest["writes"]) > 0 && guest["writes"] == guest["counted"]);
}

#[test]
fn weights_stream_through_memory_that_is_far_too_small_for_them() {
    for hints in ["off", "on"] {
        work("", &format!("layers seed=2 epochs=2 hints={hints}"));
    }
}

#[test]
fn attention_runs_over_caches_that_vcpus_make_longer() {
    for hints in ["off", "on"] {
        work("", &format!("kvcache seed=3 ops=1000 hints={hints}"));
    }
}

#[test]
fn no_addition_is_lost_while_all_add_to_the_same_pages() {
    for seed in [1, 2] {
        let report = passes(SMALL, &format!("pingpong seed={seed} ops=20000"));
        let guest = &report["guest"];
        assert_eq!(guest["writes"], 20_000, "{guest}");
        assert_eq!(guest["counted"], 20_000, "{guest}");
    }
}

#[test]
fn no_addition_is_lost_of_a_million_while_pages_go_to_and_fro() {
    let line = "--memory 128M --cpus 2 --tier host:64M --tier hbm:128M \
        --accel npu,hbm=16M,place=first-touch --accel gpu,hbm=16M,place=first-touch";
    let report = passes(line, "pingpong ops=1000000 burst=512 working_set=2M");
    assert_eq!(report["guest"]["counted"], 1_000_000, "{report}");
    let migrations = report["migrations"].as_array().unwrap();
    let pages: u64 = migrations.iter().map(|it| number(&it["pages"])).sum();
    assert!(pages > 10_000, "{pages} pages moved");
}

#[test]
fn wherever_pages_go_results_are_the_same() {
    for (place, what) in [("first-touch", "migrated_in"), ("remote", "remote")] {
        let options = "--memory 256M --cpus 2 --tier host:64M --tier zip:256M";
        let accelerators =
            format!("--accel npu,hbm=16M,place={place} --accel gpu,hbm=16M,place={place}");
        let line = format!("{options} {accelerators}");
        let run = succeed(&line, "gather seed=4 ops=10000", 10 << 20);
        for device in ["npu0", "gpu0"] {
            let link = link(&run.report, device);
            assert!(number(&link[format!("{what}_bytes")]) > 0, "{link}");
            assert_eq!(link["copied_in_bytes"], 0, "{link}");
        }
    }
}

#[test]
fn accelerators_that_do_not_fault_get_all_operands_first() {
    let line = "--memory 256M --cpus 2 --tier host:64M --tier zip:256M \
        --accel npu,hbm=16M,faults=off --accel gpu,hbm=16M,faults=off";
    passes(line, "pingpong seed=1 ops=5000");
    passes(line, "kvcache seed=1 ops=300");
    // A table that is larger than the memory cannot be there.
    let run = run(&[
        "run",
        "--memory",
        "128M",
        "--tier",
        "host:128M",
        "--accel",
        "npu,hbm=16M,faults=off",
        "--workload",
        "gather ops=1000",
    ]);
    assert_eq!(run.code(), 1, "{run:?}");
    assert!(run.stdout.contains("first_failure"), "{run:?}");
}

#[test]
fn accelerators_share_memory_that_fits_and_memory_of_2_mib_blocks() {
    let accelerators = "--accel npu,hbm=8M --accel npu,hbm=8M --accel gpu,hbm=8M";
    for tiers in [
        "--tier host:128M",
        "--tier host:64M,unit=2M --tier hbm:128M",
    ] {
        let line = format!("--memory 128M --cpus 2 {tiers} {accelerators}");
        let run = succeed(&line, "gather seed=5 ops=5000", 10 << 20);
        assert_eq!(run.report["guest"]["accelerators"], 3);
        assert!(crossed(&run.report, "npu1") > 0, "{}", run.report);
    }
}

#[test]
fn a_run_is_paused_watched_and_given_another_budget_while_accelerators_work() {
    let options = "--memory 256M --cpus 2 --tier host:96M --tier zip:256M --accel npu,hbm=16M --accel gpu,hbm=16M";
    let options: Vec<&str> = options.split_whitespace().collect();
    let workload = ["--workload", "gather seed=6 seconds=4 ops=100000000"];
    let with = [&options[..], &workload].concat();
    let controlled = Controlled::start(&with);
    let mut client = controlled.client();
    support::control::until("an accelerator has pages", || {
        let status = client.status();
        let tiers = status["memory"]["tiers"].as_array()?.clone();
        let gpu = tiers.iter().find(|tier| tier["name"] == "gpu")?;
        (number(&gpu["used_bytes"]) > 0).then_some(())
    });
    for budget in [64u64 << 20, 96 << 20] {
        client.ask(support::control::budget(budget));
        client.ask(serde_json::json!({"command": "pause"}));
        thread::sleep(Duration::from_millis(50));
        client.ask(serde_json::json!({"command": "resume"}));
    }
    controlled.finish_verified();
}

#[test]
fn a_run_ends_at_once_in_the_middle_of_commands_and_leaves_nothing() {
    for delay in [300, 700, 1500] {
        let dir = TempDir::new();
        let running = start(&dir, SMALL, "gather seed=1 seconds=60 ops=1000000000");
        thread::sleep(Duration::from_millis(delay));
        running.signal(libc::SIGTERM);
        let finished = running.finish();
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.stderr.contains("SIGTERM"), "{finished:?}");
        assert_eq!(dir.listing(), ["report.json"]);
    }
}

#[test]
fn what_cannot_be_is_said_before_anything_starts() {
    let refused = |options: &str, needles: &[&str]| {
        let mut args = vec!["run"];
        args.extend(options.split_whitespace());
        run(&args).expect_failure(2, needles);
    };
    refused("--tier none --accel npu", &["--tier none", "--accel"]);
    refused(
        "--memory 1G --accel gpu,hbm=1M",
        &["gpu", "page tables", "give it more"],
    );
    let many = "--accel npu,hbm=8M ".repeat(15);
    refused(&format!("--memory 128M {many}"), &["15"]);
    let wrong = run(&["run", "--accel", "tpu"]);
    assert_eq!(wrong.code(), 2, "{wrong:?}");
    assert!(wrong.stderr.contains("npu, gpu"), "{wrong:?}");
    // A workload for accelerators without one.
    let none = run(&["run", "--memory", "128M", "--workload", "gather"]);
    assert_eq!(none.code(), 2, "{none:?}");
    assert!(none.stdout.contains("accelerator"), "{none:?}");
}
