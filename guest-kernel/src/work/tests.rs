//! Every workload on the host's memory, with threads for CPUs.

use super::result::{self, Context};
use super::*;
use crate::memory::{PAGE_SIZE, Page, Region};
use std::string::{String, ToString};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::vec::Vec;

const MIB: u64 = 1 << 20;

/// What happens at a barrier, by its number, when all CPUs are there.
type Mischief<'a> = &'a (dyn Fn(usize) + Sync);

struct Host<'a> {
    barrier: std::sync::Barrier,
    met: AtomicUsize,
    mischief: Mischief<'a>,
    lines: Mutex<Vec<String>>,
}

impl Machine for Host<'_> {
    fn barrier(&self) {
        if self.barrier.wait().is_leader() {
            (self.mischief)(self.met.fetch_add(1, SeqCst));
        }
        self.barrier.wait();
    }

    fn line(&self, text: fmt::Arguments<'_>) {
        self.lines.lock().unwrap().push(text.to_string());
    }
}

/// Two regions of pages, aligned like the guest's.
pub(super) struct Memory {
    _pages: Vec<Page>,
    pub(super) set: WorkingSet,
}

impl Memory {
    pub(super) fn new() -> Self {
        let mut pages = Vec::new();
        pages.resize_with(8 * 256, || {
            [const { core::sync::atomic::AtomicU64::new(0x77) }; 512]
        });
        let start = (pages.as_ptr() as u64).next_multiple_of(2 * MIB);
        let end = pages.as_ptr_range().end as u64 / PAGE_SIZE * PAGE_SIZE;
        let regions = [(start, start + MIB), (start + 2 * MIB, end)];
        let regions = regions.map(|(start, end)| Region { start, end });
        // SAFETY: all of it lies in `pages`, which nobody else uses.
        let set = unsafe { WorkingSet::new(regions.into_iter(), 0) };
        assert!(set.pages() > 3 * 256);
        Self { _pages: pages, set }
    }
}

fn run(text: &str, cpus: usize, memory: &Memory, mischief: Mischief<'_>) -> serde_json::Value {
    let plan = Plan::parse(text).unwrap();
    let pages = plan.pages(memory.set.pages()).unwrap();
    let set = memory.set.clone().truncated(pages);
    let frequency = Frequency {
        khz: 2_000_000,
        assumed: false,
    };
    let host = Host {
        barrier: std::sync::Barrier::new(cpus),
        met: AtomicUsize::new(0),
        mischief,
        lines: Mutex::default(),
    };
    let total = Mutex::new(Tally::new());
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let (host, plan, set, total) = (&host, &plan, &set, &total);
            scope.spawn(move || {
                let mut tally = Tally::new();
                Crew::new(host, plan, set, frequency, cpu, cpus).run(&mut tally);
                total.lock().unwrap().merge(&tally);
            });
        }
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
    assert!(line.starts_with(&std::format!("{{\"workload\":\"{}\",", plan.name)));
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(tally.intact(), value["mismatched_bytes"] == 0, "{line}");
    value
}

#[test]
fn verify_compares_every_byte_of_every_epoch() {
    for cpus in [1, 2, 3] {
        let memory = Memory::new();
        let result = run("verify epochs=3 seed=5", cpus, &memory, &|_| {});
        let bytes = memory.set.pages() * PAGE_SIZE;
        assert_eq!(result["working_set_bytes"], bytes);
        assert_eq!(result["verified_bytes"], 3 * bytes);
        assert_eq!(result["mismatched_bytes"], 0);
        assert_eq!(result["ops"], 3 * 2 * memory.set.pages());
        assert_eq!(result["epochs"], 3);
    }
}

#[test]
fn verify_finds_one_flipped_bit_and_says_where() {
    let memory = Memory::new();
    let page = memory.set.pages() - 5;
    // Barrier 1 ends the first epoch's writing.
    let result = run("verify epochs=2", 2, &memory, &|number| {
        if number == 1 {
            memory.set.page(page)[100].fetch_xor(1 << 33, SeqCst);
        }
    });
    assert_eq!(result["mismatched_bytes"], 1);
    let bytes = memory.set.pages() * PAGE_SIZE;
    assert_eq!(result["verified_bytes"], 2 * bytes - 1);
    let first = &result["first_mismatch"];
    let address = std::format!("{:#x}", memory.set.address(page) + 800);
    assert_eq!(first["address"], address);
    assert_ne!(first["expected"], first["found"]);
}

#[test]
fn verify_finds_a_page_of_an_older_epoch_and_exchanged_pages() {
    let copy = |memory: &Memory, from: u64, to: u64| {
        for (from, to) in memory.set.page(from).iter().zip(memory.set.page(to)) {
            to.store(from.load(SeqCst), SeqCst);
        }
    };
    let memory = Memory::new();
    let older: Page = [const { core::sync::atomic::AtomicU64::new(0) }; 512];
    let stale = run("verify epochs=2 fill=random", 1, &memory, &|number| {
        // Barriers of an epoch: begin and end of writing, begin and end of reading.
        for (saved, word) in older.iter().zip(memory.set.page(9)) {
            match number {
                1 => saved.store(word.load(SeqCst), SeqCst),
                5 => word.store(saved.load(SeqCst), SeqCst),
                _ => {}
            }
        }
    });
    assert!(
        stale["mismatched_bytes"].as_u64().unwrap() > 4_000,
        "{stale}"
    );
    let exchanged = run("verify epochs=1 fill=compressible", 1, &memory, &|number| {
        if number == 1 {
            copy(&memory, 3, 11);
        }
    });
    // Two thirds of a compressible page are one word, which may share a byte or two with the other page's.
    assert!(
        exchanged["mismatched_bytes"].as_u64().unwrap() > 3_000,
        "{exchanged}"
    );
}

const ACCESSES: [&str; 8] = [
    "scan ops=9000 warmup=100",
    "stride stride=7 ops=9000",
    "uniform ops=9000 write=100",
    "zipf ops=9000 theta=1.1 fill=random",
    "hotscan ops=9000 hot=20",
    "phase ops=9000 phase_ops=1000 fill=zero",
    "phase ops=9000 phase_ops=1000 together=on",
    "faults ops=9000 passes=20 write=50",
];

#[test]
fn access_workloads_count_their_operations_and_find_every_write() {
    for text in ACCESSES {
        for cpus in [1, 2] {
            let memory = Memory::new();
            let result = run(text, cpus, &memory, &|_| {});
            assert_eq!(result["ops"], 9_000, "{result}");
            assert_eq!(result["mismatched_bytes"], 0, "{result}");
            assert_eq!(result["writes"], result["counted"]);
            assert!(result["writes"].as_u64().unwrap() > 2_000, "{result}");
            let bytes = memory.set.pages() * (PAGE_SIZE - 8) + 9_000 * 8;
            assert!(
                result["verified_bytes"].as_u64().unwrap() >= bytes,
                "{result}"
            );
        }
    }
}

#[test]
fn access_workloads_find_corruption_anywhere_in_a_page() {
    for text in ACCESSES {
        for word in [0, 1, 8, 9, 17, 511] {
            let memory = Memory::new();
            // Barrier 2 precedes all operations but the warm-up's.
            let result = run(text, 1, &memory, &|number| {
                if number == 2 {
                    memory.set.page(5)[word].fetch_add(1, SeqCst);
                }
            });
            assert_ne!(
                result["mismatched_bytes"], 0,
                "{text} word {word}: {result}"
            );
        }
    }
}

#[test]
fn hot_pages_lie_together_if_asked_to_and_those_of_the_next_phase_beside_them() {
    let touched = |text: &str, operations| {
        let memory = Memory::new();
        let plan = Plan::parse(text).unwrap();
        let host = Host {
            barrier: std::sync::Barrier::new(1),
            met: AtomicUsize::new(0),
            mischief: &|_| {},
            lines: Mutex::default(),
        };
        let frequency = Frequency {
            khz: 1,
            assumed: false,
        };
        let crew = Crew::new(&host, &plan, &memory.set, frequency, 0, 1);
        let mut generator = generator::Generator::new(&crew).unwrap();
        let pages: std::collections::BTreeSet<u64> =
            (0..operations).map(|_| generator.next()).collect();
        (pages, memory.set.pages() / 10)
    };
    for text in ["hotscan", "phase phase_ops=5000"] {
        let hot = text.to_string() + " hot_ops=100 together=on";
        let (pages, hot) = touched(&hot, 5000);
        assert!(pages.into_iter().eq(0..hot), "{text}");
    }
    let (pages, hot) = touched("phase phase_ops=5000 hot_ops=100 together=on", 10_000);
    assert!(pages.into_iter().eq(0..2 * hot));
    let (pages, hot) = touched("phase phase_ops=5000 hot_ops=100", 5000);
    assert!(*pages.last().unwrap() > 2 * hot, "scattered");
}

#[test]
fn time_bounds_a_phase_without_ops() {
    let memory = Memory::new();
    let result = run("uniform seconds=1 warmup=0", 2, &memory, &|_| {});
    let seconds = result["seconds"].as_f64().unwrap();
    assert!((1.0..3.0).contains(&seconds), "{result}");
    assert!(result["ops"].as_u64().unwrap() > 10_000);
}

#[test]
fn every_access_above_the_threshold_is_counted() {
    let memory = Memory::new();
    let result = run("faults passes=1 fault_threshold_us=0", 1, &memory, &|_| {});
    assert_eq!(result["fault_count"], memory.set.pages());
    assert!(result["fault_p50_us"].as_f64() <= result["fault_p99_us"].as_f64());
    assert!(result["fault_p99_us"].as_f64() <= result["fault_max_us"].as_f64());
}

#[test]
fn a_working_set_of_one_page_is_enough() {
    for text in ACCESSES.into_iter().chain(["verify ops=1"]) {
        let memory = Memory::new();
        let text = text.replace("ops=9000", "ops=50") + " working_set=4K";
        for cpus in [1, 2] {
            let result = run(&text, cpus, &memory, &|_| {});
            assert_eq!(result["mismatched_bytes"], 0, "{result}");
            assert_eq!(result["working_set_bytes"], PAGE_SIZE);
        }
    }
}

#[test]
fn the_error_paths_workloads_do_nothing_here() {
    for text in ["none", "spin", "triple", "wild", "hlt0"] {
        let result = run(text, 1, &Memory::new(), &|_| {});
        assert_eq!(result["ops"], 0);
    }
}

#[test]
fn a_device_that_failed_spoils_the_result_and_is_named() {
    let failure = |what| hostile::score::Failure {
        device: "blk",
        what,
        round: 7,
        cpu: 1,
    };
    let (mut first, mut second) = (Tally::new(), Tally::new());
    second.hostile.fail(failure("was too slow"));
    second.hostile.fail(failure("was too fast"));
    assert!(first.intact() && !second.intact());
    first.merge(&second);
    assert!(!first.intact());
    let context = Context {
        plan: &Plan::parse("hostile device=blk").unwrap(),
        cpus: 2,
        pages: 2000,
        frequency: Frequency {
            khz: 1,
            assumed: false,
        },
    };
    let mut line = String::new();
    result::write(&mut line, &context, &first).unwrap();
    let result: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(result["failures"], 2);
    let expected =
        serde_json::json!({"device": "blk", "what": "was too slow", "round": 7, "cpu": 1});
    assert_eq!(result["first_failure"], expected);
}
