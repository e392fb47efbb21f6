//! The workloads on the host's memory, with threads for CPUs and for accelerators.

mod commands;
mod device;
mod door;
mod finding;

use super::super::result::{self, Context};
use super::super::tests::Memory;
use super::*;
use crate::clock::Frequency;
use crate::extent::Extent;
use commands::Verdict;
use core::fmt;
use device::{Device, Mood};
use gmem_wire::{gmem, xpu};
use std::string::{String, ToString};
use std::sync::Mutex;
use std::vec::Vec;

/// What a microVM has.
#[derive(Clone, Copy)]
struct Equipment {
    cpus: usize,
    accelerators: usize,
    /// Queues of each accelerator.
    streams: usize,
    door: bool,
    khz: u64,
}

const USUAL: Equipment = Equipment {
    cpus: 2,
    accelerators: 2,
    streams: 2,
    door: true,
    khz: 2_000_000,
};

struct Host<'a> {
    barrier: std::sync::Barrier,
    devices: Vec<Device<'a>>,
    lines: Mutex<Vec<String>>,
}

impl Machine for Host<'_> {
    fn barrier(&self) {
        self.barrier.wait();
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        self.lines.lock().unwrap().push(text.to_string());
    }

    fn devices(&self) -> usize {
        self.devices.len()
    }

    fn read_device(&self, device: usize, offset: u64, width: u8) -> u64 {
        assert_eq!(width, 4);
        self.devices[device].read(offset)
    }

    fn write_device(&self, device: usize, offset: u64, width: u8, value: u64) {
        assert_eq!(width, 4);
        self.devices[device].write(offset, value);
    }
}

fn devices<'a>(equipment: Equipment, ram: Extent<'a>, mood: Mood<'a>) -> Vec<Device<'a>> {
    let streams = equipment.streams;
    let accelerators = 0..equipment.accelerators;
    let mut devices: Vec<_> = accelerators
        .map(|number| Device::new(xpu::ID, number, streams, ram, mood))
        .collect();
    if equipment.door {
        devices.insert(0, Device::new(gmem::ID, 0, 0, ram, mood));
    }
    devices
}

fn run(text: &str, equipment: Equipment, mood: Mood<'_>) -> serde_json::Value {
    let Equipment { cpus, khz, .. } = equipment;
    let plan = Plan::parse(text).unwrap();
    let memory = Memory::new();
    let set = memory.set.clone().in_one_piece();
    let pages = plan.pages(set.pages()).unwrap();
    let set = set.truncated(pages);
    let ram = Extent::new(&set, 0).unwrap();
    let frequency = Frequency {
        khz,
        assumed: false,
    };
    let host = Host {
        barrier: std::sync::Barrier::new(cpus),
        devices: devices(equipment, ram, mood),
        lines: Mutex::default(),
    };
    assert_eq!(fits(&plan, &set, &host), Ok(()));
    let total = Mutex::new(Tally::new());
    std::thread::scope(|scope| {
        for device in &host.devices {
            scope.spawn(|| device.serve());
        }
        let work = |cpu| {
            let (host, plan, set, total) = (&host, &plan, &set, &total);
            scope.spawn(move || {
                let mut tally = Tally::new();
                Crew::new(host, plan, set, frequency, cpu, cpus).run(&mut tally);
                total.lock().unwrap().merge(&tally);
            })
        };
        let cpus: Vec<_> = (0..cpus).map(work).collect();
        let ends: Vec<_> = cpus.into_iter().map(|cpu| cpu.join()).collect();
        host.devices.iter().for_each(Device::end);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    let tally = total.into_inner().unwrap();
    let mut line = String::new();
    let context = Context {
        plan: &plan,
        cpus,
        pages,
        frequency,
    };
    result::write(&mut line, &context, &tally).unwrap();
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    let right = value["mismatched_bytes"] == 0 && value["failures"] == 0;
    assert_eq!(tally.intact(), right, "{line}");
    value
}

fn obey(_: usize, _: u64, _: &xpu::Request) -> Verdict {
    Verdict::Obey
}

const ALL: [&str; 7] = [
    "gather ops=20000 write=5",
    "gather ops=5000 row=64 batch=33 theta=0.01 fill=random",
    "layers layers=3 epochs=3",
    "kvcache ops=300 sequences=9",
    "kvcache ops=100 width=2048 sequences=40 theta=1.5",
    "pingpong ops=4001",
    "pingpong burst=512 ops=60001",
];

/// Checks what every right result says.
fn assert_right(result: &serde_json::Value, accelerators: usize) {
    assert_eq!(result["mismatched_bytes"], 0, "{result}");
    assert_eq!(result["failures"], 0, "{result}");
    assert_eq!(result["accelerators"], accelerators, "{result}");
    assert!(result["verified_bytes"].as_u64().unwrap() > 1 << 20);
    let of = |key: &str| result[key].as_f64().unwrap();
    assert!(of("command_p50_us") > 0.0 && of("nop_p50_us") > 0.0);
    assert!(of("fault_p50_us_accel") > 0.0);
    assert!(of("command_p50_us") <= of("command_p99_us"), "{result}");
}

#[test]
fn accelerators_find_what_the_cpus_compute() {
    for text in ALL {
        for (cpus, accelerators) in [(2, 1), (1, 2), (2, 3)] {
            let equipment = Equipment {
                cpus,
                accelerators,
                ..USUAL
            };
            let result = run(text, equipment, &obey);
            assert_right(&result, accelerators);
            if let Some(ops) = text.split("ops=").nth(1) {
                let ops: u64 = ops.split(' ').next().unwrap().parse().unwrap();
                assert_eq!(result["ops"], ops, "{result}");
            }
        }
    }
}

#[test]
fn every_accelerator_gets_commands() {
    for text in ALL {
        let asked: [_; 3] = Default::default();
        let mood = |number: usize, _: u64, _: &xpu::Request| {
            let asked: &[core::sync::atomic::AtomicU64; 3] = &asked;
            asked[number].fetch_add(1, core::sync::atomic::Ordering::Relaxed);
            Verdict::Obey
        };
        let accelerators = 3;
        let equipment = Equipment {
            accelerators,
            ..USUAL
        };
        assert_right(&run(text, equipment, &mood), accelerators);
        let asked = asked.map(core::sync::atomic::AtomicU64::into_inner);
        assert!(
            asked.iter().all(|commands| *commands > 0),
            "{text}: {asked:?}"
        );
    }
}

#[test]
fn hints_change_no_result() {
    for text in ALL.into_iter().filter(|text| !text.starts_with("pingpong")) {
        for streams in [1, 2] {
            let equipment = Equipment { streams, ..USUAL };
            let text = text.to_string() + " hints=on";
            let hints = core::sync::atomic::AtomicU64::new(0);
            let mood = |_: usize, _: u64, request: &xpu::Request| {
                let is = request.op == xpu::op::ADVISE && request.args[2] == 0;
                hints.fetch_add(is.into(), core::sync::atomic::Ordering::Relaxed);
                Verdict::Obey
            };
            let result = run(&text, equipment, &mood);
            assert_right(&result, 2);
            assert_eq!(result["hints"], true);
            // With one queue, a hint would be waited for like a command.
            assert_eq!(hints.into_inner() > 0, streams > 1, "{text}");
        }
    }
}

#[test]
fn the_hottest_rows_fill_half_of_the_local_memory_before_they_are_looked_up() {
    let early = core::sync::atomic::AtomicU64::new(0);
    let mood = |_: usize, count: u64, request: &xpu::Request| {
        let is = request.op == xpu::op::ADVISE && count <= device::MEMORY / 2 / 4096;
        early.fetch_add(is.into(), core::sync::atomic::Ordering::Relaxed);
        Verdict::Obey
    };
    assert_right(&run("gather ops=1000 hints=on", USUAL, &mood), 2);
    assert_eq!(early.into_inner(), 2 * device::MEMORY / 2 / 4096);
}

#[test]
fn the_door_says_where_the_data_is_if_there_is_one() {
    for door in [false, true] {
        let equipment = Equipment { door, ..USUAL };
        let result = run("gather ops=1000", equipment, &obey);
        assert_right(&result, 2);
        assert_eq!(result["local_bytes"].is_u64(), door, "{result}");
    }
}

#[test]
fn writes_of_both_sides_are_counted() {
    let result = run("gather ops=20000 write=50 working_set=2M", USUAL, &obey);
    assert_eq!(result["mismatched_bytes"], 0, "{result}");
    assert_eq!(result["writes"], result["counted"], "{result}");
    let writes = result["writes"].as_u64().unwrap();
    // Half of 50 percent each, more or less.
    assert!((9_000..=10_000).contains(&writes), "{result}");
    let none = run("gather ops=2000 write=0", USUAL, &obey);
    assert_eq!((&none["writes"], &none["counted"]), (&0.into(), &0.into()));
}

#[test]
fn layers_say_how_large_they_are_and_what_an_epoch_after_the_first_takes() {
    let number = |result: &serde_json::Value, key: &str| result[key].as_f64().unwrap();
    let one = run("layers layers=2 epochs=1", USUAL, &obey);
    assert_eq!(one["epoch_seconds"], one["seconds"], "{one}");
    let three = run("layers layers=2 epochs=3", USUAL, &obey);
    let epoch = number(&three, "epoch_seconds");
    assert!(
        epoch > 0.0 && 2.0 * epoch < number(&three, "seconds"),
        "{three}"
    );
    assert_eq!(one["weight_bytes"], three["weight_bytes"]);
    let (weights, all) = (
        number(&one, "weight_bytes"),
        number(&one, "working_set_bytes"),
    );
    assert!(weights > all / 2.0 && weights < all, "{one}");
}

#[test]
fn a_burst_adds_to_a_word_of_every_page_and_to_others_the_next_time() {
    let seen = Mutex::new(std::collections::BTreeSet::new());
    let mood = |_: usize, _: u64, request: &xpu::Request| {
        if request.op == xpu::op::ATOMIC_ADDS {
            let [at, count, stride, ..] = request.args;
            let words = (0..count).map(|number| at + number * stride);
            let pages: std::collections::BTreeSet<_> = words.map(|at| at / 4096).collect();
            // All of it but for what rounding leaves.
            assert!((400..=512).contains(&pages.len()), "{request:?}");
            seen.lock().unwrap().insert(at);
        }
        Verdict::Obey
    };
    let text = "pingpong ops=61440 burst=512 working_set=2M";
    assert_right(&run(text, USUAL, &mood), 2);
    let different = seen.into_inner().unwrap().len();
    assert!(different > 40, "{different} of 60");
}

#[test]
fn without_accelerators_and_without_memory_the_plan_does_not_fit() {
    let memory = Memory::new();
    let set = memory.set.clone().in_one_piece();
    let ram = Extent::new(&set, 0).unwrap();
    let says = |text: &str, accelerators, set: &crate::memory::WorkingSet| {
        let equipment = Equipment {
            accelerators,
            ..USUAL
        };
        let host = Host {
            barrier: std::sync::Barrier::new(1),
            devices: devices(equipment, ram, &obey),
            lines: Mutex::default(),
        };
        let plan = Plan::parse(text).unwrap();
        fits(&plan, set, &host).map_err(|error| error.to_string())
    };
    for name in ["gather", "layers", "kvcache", "pingpong"] {
        let none = says(name, 0, &set).unwrap_err();
        assert!(none.contains("--accel") && none.contains(name), "{none}");
        let small = set.clone().truncated(20);
        let small = says(name, 1, &small).unwrap_err();
        assert!(small.contains("more memory"), "{small}");
        assert_eq!(says(name, 2, &set), Ok(()));
    }
    for text in [
        "layers layers=1024",
        "kvcache sequences=18446744073709551615",
        "gather batch=4096 row=2048",
    ] {
        assert!(says(text, 1, &set).unwrap_err().contains("more memory"));
    }
    assert_eq!(says("verify", 0, &set), Ok(()));
}
