//! Operands in the accelerator's memory, copied there, or beneath the guest: the results are the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use gmem_core::accel::{Attachment, Placement};
use gmem_core::engine::Destination;
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange, Unit};
use gmem_devices::accel::mmu::{Format, Gpu, Npu};
use gmem_devices::accel::{Command, HostMemory, Processor};
use gmem_work::Rows;

use crate::simulated::{Bench, Guest, bench, hbm};
use crate::{PAGE, attach, get, put, read};

/// The guest's memory as units reach it: what is not there, or protected, is a failure of the test.
struct Host(Arc<Guest>);

fn split(address: u64) -> (PageNo, usize) {
    (PageNo::of_address(address), address as usize % PAGE_SIZE)
}

impl HostMemory for Host {
    fn read(&self, address: u64, into: &mut [u8]) {
        let (page, at) = split(address);
        let bytes = self.0.bytes(page).expect("reached, and not there");
        into.copy_from_slice(&bytes[at..at + into.len()]);
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let (page, at) = split(address);
        self.0.change_remotely(page, |there| {
            there[at..at + bytes.len()].copy_from_slice(bytes)
        });
    }

    fn atomic_add(&self, address: u64, value: u64) -> u64 {
        let (page, at) = split(address);
        let mut old = 0;
        self.0.change_remotely(page, |there| {
            let word = &mut there[at..at + 8];
            old = u64::from_le_bytes(word.as_ref().try_into().unwrap());
            word.copy_from_slice(&old.wrapping_add(value).to_le_bytes());
        });
        old
    }
}

/// As [`attach`], with the guest's memory in reach.
pub fn attach_reaching<F: Format>(
    bench: &Bench,
    pages: u64,
    placement: Placement,
) -> (Arc<Attachment>, Processor<F>) {
    let (attachment, processor) = attach(bench, pages);
    attachment.set_placement(placement);
    let host = Host(Arc::clone(&bench.guest));
    (attachment, processor.with_host(Arc::new(host)))
}

const PLACEMENTS: [Placement; 3] = [
    Placement::Adaptive,
    Placement::FirstTouch,
    Placement::Remote,
];

fn commands<F: Format>(placement: Placement) {
    let bench = bench(1024, 900, Unit::Page, vec![hbm(1024)]);
    // Less than the operands need.
    let (_attachment, mut unit) = attach_reaching::<F>(&bench, 32, placement);
    let float = |i: usize| ((i * 37 % 1000) as f32 / 7.0 - 50.0).to_le_bytes();
    let x: Vec<u8> = (0..40_000).flat_map(float).collect();
    let mut y: Vec<u8> = (7..40_007).flat_map(float).collect();
    put(&bench, 100, &x);
    put(&bench, 200, &y);
    let len = x.len() as u64;
    let saxpy = Command::Saxpy {
        a: 1.25,
        x: 100 * PAGE,
        y: 200 * PAGE,
        len,
    };
    let sum = Command::Sum {
        from: 100 * PAGE,
        len,
    };
    for _ in 0..2 {
        unit.execute(saxpy).unwrap();
        gmem_work::saxpy(1.25, &x, &mut y).unwrap();
        assert_eq!(unit.execute(sum).unwrap(), gmem_work::sum_u64(&x).unwrap());
    }
    // Odd addresses; then rows by index, and words added to.
    let copy = Command::Copy {
        from: 100 * PAGE + 5,
        to: 400 * PAGE + 4001,
        len: 50_000,
    };
    unit.execute(copy).unwrap();
    let indices: Vec<u8> = (0..500u32)
        .flat_map(|i| (i * 7 % 300).to_le_bytes())
        .collect();
    put(&bench, 500, &indices);
    let gather = Command::Gather {
        table: 100 * PAGE,
        rows: Rows {
            count: 300,
            bytes: 96,
        },
        indices: 500 * PAGE,
        count: 500,
        to: 600 * PAGE + 3,
    };
    unit.execute(gather).unwrap();
    let at = 700 * PAGE + 8;
    for n in 0..200 {
        assert_eq!(
            unit.execute(Command::AtomicAdd { at, value: 3 }).unwrap(),
            3 * n
        );
    }
    bench.audit();
    assert!(get(&bench, 200, y.len()) == y);
    assert!(get(&bench, 100, x.len()) == x);
    assert!(get(&bench, 400, 60_000)[4001..54_001] == x[5..50_005]);
    let rows = get(&bench, 600, 3 + 500 * 96);
    for (row, i) in rows[3..].chunks(96).zip(0usize..) {
        assert!(*row == x[i * 7 % 300 * 96..][..96]);
    }
    assert_eq!(
        u64::from_le_bytes(get(&bench, 700, 16)[8..].try_into().unwrap()),
        600
    );
    bench.audit();
}

#[test]
fn commands_do_the_same_wherever_their_operands_are() {
    for placement in PLACEMENTS {
        commands::<Npu>(placement);
        commands::<Gpu>(placement);
    }
}

#[test]
fn what_is_used_in_place_crosses_the_link_as_often_as_it_is_used() {
    let bench = bench(512, 400, Unit::Page, vec![hbm(512)]);
    let (attachment, mut npu) = attach_reaching::<Npu>(&bench, 16, Placement::Remote);
    put(&bench, 10, &[1; 4 * PAGE_SIZE]);
    let len = 3 * PAGE;
    let sum = |from| Command::Sum { from, len };
    npu.execute(sum(10 * PAGE + 8)).unwrap();
    npu.execute(sum(10 * PAGE + 8)).unwrap();
    let at = 12 * PAGE;
    npu.execute(Command::AtomicAdd { at, value: 1 }).unwrap();
    let traffic = attachment.traffic();
    assert_eq!(
        (traffic.remote, traffic.bytes()),
        (2 * len + 8, 2 * len + 8)
    );
    assert_eq!(attachment.usage().pages, 0);
}

fn storm(placement: Placement) {
    const ADDS: u64 = 20_000;
    const PAGES: u64 = 64;
    let bench = bench(512, 300, Unit::Page, vec![hbm(512)]);
    let (of_npu, mut npu) = attach_reaching::<Npu>(&bench, 24, placement);
    let (of_gpu, mut gpu) = attach_reaching::<Gpu>(&bench, 32, placement);
    let add = |n: u64| Command::AtomicAdd {
        at: n * 7 % PAGES * PAGE,
        value: 1,
    };
    let sum = |n: u64| Command::Sum {
        from: n * 11 % PAGES * PAGE,
        len: 64,
    };
    // Words only grow: none is older than one seen before.
    let grows = |seen: &mut [u64; PAGES as usize], n: u64, found| {
        let before = std::mem::replace(&mut seen[(n * 11 % PAGES) as usize], found);
        assert!(found >= before, "{found} after {before}");
    };
    let ended = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = [0; PAGES as usize];
            for n in 0..ADDS {
                npu.execute(add(n)).unwrap();
                grows(&mut seen, n, npu.execute(sum(n)).unwrap());
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut seen = [0; PAGES as usize];
            for n in 0..ADDS {
                gpu.execute(add(n)).unwrap();
                grows(&mut seen, n, gpu.execute(sum(n)).unwrap());
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut faults = bench.engine.faults();
            for n in 0..ADDS {
                let page = PageNo(n * 5 % PAGES);
                while !bench.guest.add_if_present(page, 1) {
                    faults.handle(page, Instant::now()).unwrap();
                }
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut n = 0;
            while ended.load(Ordering::SeqCst) < 3 {
                n += 1;
                let range = PageRange::new(PageNo(n * 13 % PAGES), 1 + n % 20);
                let to = [Destination::Staged, Destination::Tier(1)][n as usize % 2];
                bench.engine.migrate(range, to).unwrap();
            }
        });
    });
    bench.audit();
    let words = (0..PAGES).map(|page| read(&bench, page));
    let sum: u64 = words
        .map(|page| u64::from_le_bytes(page[..8].try_into().unwrap()))
        .sum();
    assert_eq!(sum, 3 * ADDS);
    let remote = of_npu.traffic().remote + of_gpu.traffic().remote;
    assert!(remote > 0, "{:?} {:?}", of_npu.traffic(), of_gpu.traffic());
}

#[test]
fn no_update_is_lost_and_no_unit_waits_in_a_chunk_while_pages_are_taken_away() {
    storm(Placement::Adaptive);
    storm(Placement::Remote);
}
