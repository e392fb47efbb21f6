//! Guests whose memory does not fit their host budget: every byte is verified, by the guest, and the
//! budget is checked from outside.
//!
//! `GMEM_FULL_SIZE=1 cargo test --release --test oversubscribed seeds` makes the twenty runs of one test as
//! large as the others; without it they are small, so that all tests together take two minutes.

mod support;

use std::thread;
use std::time::Duration;
use std::{env, fs};

use gmem_core::bytes::Bytes;
use gmem_vmm::cli::size;
use serde_json::Value;
use support::gmem::{TempDir, run};
use support::outside;
use support::verified::{number, start, succeed, tiers};

const MIB: u64 = 1 << 20;
/// A small guest with a quarter of its memory in host RAM.
const SMALL: &str = "--memory 128M --tier host:32M --tier hbm:128M";

#[test]
fn four_times_the_budget_is_verified_within_it_with_1_2_and_4_vcpus() {
    let line = "--memory 512M --tier host:128M --tier hbm:512M";
    for cpus in [1, 2, 4] {
        let line = format!("{line} --cpus {cpus}");
        let run = succeed(&line, "verify epochs=3", 1_400_000_000);
        assert_eq!(run.report["guest"]["cpus"], cpus);
        println!("{cpus} vCPUs: {:?}", run.rss);
    }
}

#[test]
fn emulated_hbm_is_a_memfd_and_not_private_memory() {
    let dir = TempDir::new();
    let running = start(&dir, SMALL, "verify epochs=3");
    thread::sleep(Duration::from_millis(150));
    let mappings = outside::mappings(running.pid());
    let named = |name| mappings.iter().filter(move |it| it.name.contains(name));
    assert_eq!(named("memfd:gmem-hbm").count(), 1, "{mappings:?}");
    assert_eq!(running.finish().code(), 0);
}

#[test]
fn pages_pass_through_hbm_zip_and_file() {
    let dir = TempDir::new();
    let line = format!(
        "--memory 512M --tier host:64M --tier hbm:128M --tier zip:64M --tier file:512M,path={}",
        dir.path().display()
    );
    let run = succeed(&line, "verify epochs=3", 1_400_000_000);
    for tier in tiers(&run.report) {
        assert!(number(&tier["peak_bytes"]) > 0, "{tier} was used");
    }
    assert_eq!(dir.listing(), [""; 0], "the file had no name");
}

#[test]
fn blocks_of_2_mib_stay_whole() {
    let dir = TempDir::new();
    let line = "--memory 512M --tier host:128M,unit=2M --tier hbm:512M";
    let running = start(&dir, line, "verify epochs=3");
    let (mut resident, mut huge) = (0, 0);
    for _ in 0..15 {
        thread::sleep(Duration::from_millis(40));
        for mapping in outside::mappings(running.pid()) {
            if mapping.is_managed() {
                resident += mapping.resident;
                huge += mapping.huge;
            }
        }
    }
    let finished = running.finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    println!("{huge} of {resident} bytes sampled are in huge pages");
    assert!(resident > 0 && huge * 100 >= resident * 95);
}

#[test]
fn blocks_of_2_mib_stay_within_the_budget_in_every_tier() {
    let dir = TempDir::new();
    let line = "--memory 512M --tier host:128M,unit=2M --tier hbm:512M";
    succeed(line, "verify epochs=3", 1_400_000_000);
    // Several vCPUs fault on blocks that all of them use while these are on their way.
    for seed in 1..=6 {
        let workload = format!("verify epochs=3 seed={seed}");
        succeed(&format!("{line} --cpus 2"), &workload, 1_400_000_000);
    }
    let path = dir.path().display();
    for below in [
        format!("--tier zip:64M --tier file:512M,path={path}"),
        "--tier zip:512M".into(),
    ] {
        let line = format!("--memory 512M --tier host:128M,unit=2M {below}");
        succeed(&line, "verify epochs=3", 1_400_000_000);
    }
}

/// The most memory that the tiers certainly hold, from the message that refuses more.
fn capacity(tiers: &str) -> u64 {
    let mut args = vec!["run", "--memory", "64G"];
    args.extend(tiers.split(' '));
    let finished = run(&args);
    finished.expect_failure(2, &["64G", "make a tier larger"]);
    let (_, rest) = finished.stderr.split_once("larger than the ").unwrap();
    size::parse(rest.split(' ').next().unwrap()).unwrap()
}

#[test]
fn memory_may_be_as_large_as_the_tiers_to_the_last_page_and_no_larger() {
    const PAGE: u64 = 4096;
    const BLOCK: u64 = 2 * MIB;
    let dir = TempDir::new();
    let file = format!("--tier file:32M,path={}", dir.path().display());
    // What zip certainly holds is its own matter, but it is less than its size, and not much less.
    for (tiers, unit, expected) in [
        (
            "--tier host:32M --tier hbm:128M".to_owned(),
            PAGE,
            160 * MIB - 512 * 1024..=160 * MIB - 512 * 1024,
        ),
        (
            "--tier host:32M,unit=2M --tier hbm:128M".to_owned(),
            BLOCK,
            156 * MIB..=156 * MIB,
        ),
        (
            format!("--tier host:32M --tier hbm:32M --tier zip:32M {file}"),
            PAGE,
            127 * MIB..=128 * MIB - 512 * 1024,
        ),
        (
            "--tier host:32M,unit=2M --tier zip:64M".to_owned(),
            BLOCK,
            90 * MIB..=92 * MIB,
        ),
    ] {
        let found = capacity(&tiers);
        assert!(expected.contains(&found), "{tiers}: {found}");
        let most = found - found % unit;
        let more = (most + unit).to_string();
        let mut args = vec!["run", "--memory", &more];
        args.extend(tiers.split(' '));
        let shown = [Bytes(most + unit).to_string(), Bytes(found).to_string()];
        run(&args).expect_failure(2, &[&shown[0], &shown[1], "make a tier larger"]);
        for seed in 1..=3 {
            let workload = format!("verify epochs=2 fill=random seed={seed}");
            succeed(&format!("--memory {most} {tiers}"), &workload, most);
        }
    }
}

#[test]
fn twenty_seeds_in_a_row() {
    let (line, verified) = match env::var_os("GMEM_FULL_SIZE") {
        Some(_) => (
            "--memory 512M --tier host:128M --tier hbm:512M",
            1_400_000_000,
        ),
        None => (SMALL, 350_000_000),
    };
    for seed in 1..=20 {
        let run = succeed(line, &format!("verify epochs=3 seed={seed}"), verified);
        assert_eq!(run.report["guest"]["seed"], seed);
    }
}

#[test]
fn every_workload_finds_what_it_wrote() {
    for name in ["scan", "stride", "uniform", "zipf", "hotscan", "phase"] {
        let run = succeed(SMALL, &format!("{name} seconds=1"), MIB);
        assert_eq!(run.report["guest"]["workload"], name);
        assert!(number(&run.report["guest"]["ops"]) > 0);
    }
}

/// The members of an object, checked to be these and no others.
fn members<'a>(object: &'a Value, names: &[&str]) -> &'a Value {
    let mut found: Vec<&str> = object
        .as_object()
        .unwrap_or_else(|| panic!("an object was expected: {object}"))
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = names.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    object
}

#[test]
fn the_report_has_the_members_of_schema_1_and_they_agree() {
    let dir = TempDir::new();
    let line = format!(
        "--memory 128M --tier host:16M --tier hbm:32M --tier zip:16M --tier file:128M,path={}",
        dir.path().display()
    );
    let report = succeed(&line, "verify epochs=2", 230_000_000).report;
    members(
        &report,
        &[
            "schema",
            "outcome",
            "boot",
            "guest",
            "memory",
            "faults",
            "migrations",
            "integrity",
        ],
    );
    assert_eq!(report["schema"], 1);
    let boot = members(&report["boot"], &["to_entry_us", "to_workload_us"]);
    println!("boot: {boot}");
    assert!(number(&boot["to_workload_us"]) >= number(&boot["to_entry_us"]));
    assert_eq!(report["guest"]["workload"], "verify");
    members(
        &report["integrity"],
        &["verified_bytes", "mismatched_bytes"],
    );
    assert_eq!(
        report["integrity"]["verified_bytes"],
        report["guest"]["verified_bytes"]
    );

    let names = [
        "size_bytes",
        "metadata_bytes",
        "vmm_rss_bytes",
        "tiers",
        "huge",
    ];
    let memory = members(&report["memory"], &names);
    let huge = members(&memory["huge"], &["promotions", "splits", "bytes"]);
    // Nobody asked for any.
    assert_eq!(
        (&huge["promotions"], &huge["bytes"]),
        (&0.into(), &0.into())
    );
    assert_eq!(memory["size_bytes"], 128 * MIB);
    let metadata = number(&memory["metadata_bytes"]);
    assert!(metadata > 0 && metadata <= 128 * MIB / 500, "{metadata}");
    let vmm = number(&memory["vmm_rss_bytes"]);
    println!("metadata {metadata}, vmm_rss {vmm}");
    assert!(vmm <= 8 * MIB, "{vmm}");

    let names = ["cpu", "accel", "prefetched_pages", "prefetch_used_pages"];
    let faults = members(&report["faults"], &names);
    let latency = ["count", "p50_us", "p99_us", "p999_us", "max_us"];
    let figures: Vec<f64> = latency
        .iter()
        .map(|name| members(&faults["cpu"], &latency)[name].as_f64().unwrap())
        .collect();
    assert!(figures[0] > 0.0 && figures[1..].is_sorted(), "{faults}");
    assert_eq!(members(&faults["accel"], &latency)["count"], 0);
    assert!(number(&faults["prefetch_used_pages"]) <= number(&faults["prefetched_pages"]));

    check_migrations(&report, &["host", "hbm", "zip", "file"]);
}

/// Flows name tiers that exist, and what went into each tier and did not leave it is what it holds.
fn check_migrations(report: &Value, kinds: &[&str]) {
    let flows = report["migrations"].as_array().unwrap();
    let mut lower_pages = 0;
    for (tier, kind) in tiers(report).iter().zip(kinds) {
        let names = ["name", "kind", "capacity_bytes", "used_bytes", "peak_bytes"];
        members(tier, &names);
        assert_eq!(
            (&tier["kind"], &tier["name"]),
            (&(*kind).into(), &(*kind).into())
        );
        let [capacity, used, peak] =
            ["capacity_bytes", "used_bytes", "peak_bytes"].map(|name| number(&tier[name]));
        assert!(used <= peak && peak <= capacity, "{tier}");
        if *kind == "host" {
            continue;
        }
        let sum = |end: &str| -> u64 {
            let of_tier = flows.iter().filter(|flow| flow[end] == *kind);
            of_tier.map(|flow| number(&flow["pages"])).sum()
        };
        let held = sum("to") - sum("from");
        lower_pages += held;
        if *kind == "zip" {
            assert!(used <= held * 4096 + capacity / 64, "{tier}: {held} pages");
        } else {
            assert_eq!(used, held * 4096, "{tier}");
        }
    }
    assert_eq!(tiers(report).len(), kinds.len());
    assert!(lower_pages * 4096 <= number(&report["memory"]["size_bytes"]));
    for flow in flows {
        members(flow, &["from", "to", "pages", "bytes"]);
        assert_eq!(number(&flow["bytes"]), number(&flow["pages"]) * 4096);
        for end in ["from", "to"] {
            let name = flow[end].as_str().unwrap();
            assert!(
                kinds.contains(&name) || ["zero", "staged"].contains(&name),
                "{flow}"
            );
        }
    }
}

#[test]
fn bytes_that_change_behind_the_guests_back_are_found() {
    let dir = TempDir::new();
    let running = start(&dir, SMALL, "verify epochs=3");
    let poker = poke_word(running.pid(), 128 * MIB, 100 * MIB + 808);
    let finished = running.finish();
    let pokes = poker.join().unwrap();
    assert!(pokes > 10, "{pokes}");
    let needle = "gmem: the guest found bytes that are not what it wrote";
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains(needle), "{finished:?}");
    let report = fs::read(dir.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["outcome"], "guest-failure");
    let mismatched = number(&report["integrity"]["mismatched_bytes"]);
    // Eight bytes an epoch, and not one byte elsewhere.
    assert!((1..=24).contains(&mismatched), "{mismatched}");
}

/// Writes a word of guest memory over and over, so that it changes between the guest's write and read of
/// each epoch, until the process is over; how often. A page that is not beneath the guest just then cannot
/// be written: such an access has nobody to wait for the page.
fn poke_word(pid: i32, memory: u64, at: u64) -> thread::JoinHandle<u32> {
    thread::spawn(move || {
        let mut pokes = 0;
        let mut guest = None;
        while outside::is_alive(pid) {
            if guest.is_none() {
                let mappings = outside::mappings(pid);
                guest = mappings.into_iter().find(|it| it.is_guest());
            }
            if let Some(guest) = &guest {
                assert_eq!(guest.end - guest.start, memory);
                pokes += u32::from(outside::poke(pid, guest.start + at, b"not mine").is_ok());
            }
            thread::sleep(Duration::from_micros(500));
        }
        pokes
    })
}
