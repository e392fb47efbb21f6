//! Two accelerators of different make and a vCPU in one address space: commands on guest-physical addresses.

#[path = "../../../gmem-core/tests/engine/simulated.rs"]
#[allow(dead_code, reason = "shared with the engine's tests")]
mod simulated;

mod placements;
mod resident;
mod results;
mod streams;
mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use gmem_core::accel::{Accelerator, Attachment};
use gmem_core::engine::DeviceError;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::LocalMemory;
use gmem_core::page::{PAGE_SIZE, PageNo, Unit};
use gmem_devices::accel::mmu::{Format, Gpu, Npu};
use gmem_devices::accel::{Command, CommandError, Element, Hardware, Processor};
use gmem_work::Shape;
use simulated::{Bench, bench, hbm};

const PAGE: u64 = PAGE_SIZE as u64;

/// An accelerator with `pages` of memory, attached, with an execution unit.
fn attach<F: Format>(bench: &Bench, pages: u64) -> (Arc<Attachment>, Processor<F>) {
    let tables = 64 * PAGE;
    let memory = LocalMemory::new(pages * PAGE + tables, tables, Link::new(0.0, 0.0)).unwrap();
    let hardware = Hardware::<F>::new(Arc::new(memory), 1);
    let accelerator = Accelerator::new(F::NAME, Arc::clone(hardware.memory()), hardware.clone());
    let attachment = Arc::new(accelerator.attach(&bench.engine).unwrap());
    let processor = Processor::new(&hardware, &attachment).unwrap();
    assert!(
        Processor::new(&hardware, &attachment).is_none(),
        "there was one unit"
    );
    (attachment, processor)
}

/// A vCPU reads a page.
fn read(bench: &Bench, page: u64) -> Vec<u8> {
    bench
        .engine
        .faults()
        .handle(PageNo(page), Instant::now())
        .unwrap();
    bench.guest.bytes(PageNo(page)).unwrap().to_vec()
}

/// A vCPU writes a page.
fn write(bench: &Bench, page: u64, bytes: [u8; PAGE_SIZE]) {
    bench
        .engine
        .faults()
        .handle(PageNo(page), Instant::now())
        .unwrap();
    bench.guest.write_bytes(PageNo(page), bytes);
}

/// A vCPU writes whole pages from page `start` on.
fn put(bench: &Bench, start: u64, bytes: &[u8]) {
    for (page, bytes) in (start..).zip(bytes.chunks(PAGE_SIZE)) {
        let mut whole = [0; PAGE_SIZE];
        whole[..bytes.len()].copy_from_slice(bytes);
        write(bench, page, whole);
    }
}

/// A vCPU reads `len` bytes from page `start` on.
fn get(bench: &Bench, start: u64, len: usize) -> Vec<u8> {
    let pages = start..start + len.div_ceil(PAGE_SIZE) as u64;
    let mut bytes: Vec<u8> = pages.flat_map(|page| read(bench, page)).collect();
    bytes.truncate(len);
    bytes
}

#[test]
fn a_pointer_is_a_pointer_on_both_accelerators_and_the_vcpu() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    // Odd addresses and lengths, over many pages: the NPU fills, the GPU copies, the vCPU looks.
    let (from, to, len) = (3 * PAGE + 17, 500 * PAGE + 4001, 20 * PAGE + 333);
    let pattern = 0x0123_4567_89ab_cdef;
    npu.execute(Command::Fill {
        to: from,
        len,
        pattern,
    })
    .unwrap();
    gpu.execute(Command::Copy { from, to, len }).unwrap();
    let mut expected = vec![0; len as usize];
    gmem_work::fill(&mut expected, pattern, 0);
    let seen: Vec<u8> = (500..522).flat_map(|page| read(&bench, page)).collect();
    let start = (to - 500 * PAGE) as usize;
    assert!(seen[start..start + len as usize] == expected[..]);
    assert!(
        seen[..start].iter().all(|byte| *byte == 0),
        "bytes before it changed"
    );
    assert!(
        seen[start + len as usize..].iter().all(|byte| *byte == 0),
        "bytes behind it changed"
    );
    bench.audit();
}

#[test]
fn no_update_is_lost_while_a_vcpu_and_both_accelerators_add_to_the_same_pages() {
    const ADDS: u64 = 60_000;
    const PAGES: u64 = 64;
    let bench = bench(512, 300, Unit::Page, vec![hbm(512)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 24);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 48);
    let add = |n: u64| Command::AtomicAdd {
        at: n * 7 % PAGES * PAGE,
        value: 1,
    };
    let (meeting, failures) = (Barrier::new(3), AtomicU64::new(0));
    // Again and again all three begin together: else each has its pages to itself for as long as the host lets it run.
    let adds = |mut add: Box<dyn FnMut(u64) -> bool + Send + '_>| {
        for n in 0..ADDS {
            if n.is_multiple_of(500) {
                meeting.wait();
            }
            failures.fetch_add(u64::from(!add(n)), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| adds(Box::new(|n| npu.execute(add(n)).is_ok())));
        scope.spawn(|| adds(Box::new(|n| gpu.execute(add(n)).is_ok())));
        scope.spawn(|| {
            let mut faults = bench.engine.faults();
            adds(Box::new(|n| {
                let page = PageNo(n * 5 % PAGES);
                while !bench.guest.add_if_present(page, 1) {
                    if faults.handle(page, Instant::now()).is_err() {
                        return false;
                    }
                }
                true
            }));
        });
    });
    assert_eq!(failures.into_inner(), 0);
    bench.audit();
    let sum: u64 = (0..PAGES)
        .map(|page| u64::from_le_bytes(read(&bench, page)[..8].try_into().unwrap()))
        .sum();
    assert_eq!(sum, 3 * ADDS);
    let stats = bench.engine.stats();
    // Each of them takes each page from another at least once between two meetings.
    let moved: u64 = stats.flows().iter().map(|flow| flow.pages).sum();
    assert!(moved >= ADDS / 500 * PAGES * 2, "{moved} pages moved");
}

#[test]
fn an_operand_larger_than_the_accelerators_memory_streams_through_it() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (attachment, mut npu) = attach::<Npu>(&bench, 16);
    let len = 400 * PAGE;
    npu.execute(Command::Fill {
        to: 0,
        len,
        pattern: 3,
    })
    .unwrap();
    assert!(attachment.usage().peak_bytes <= 16 * PAGE);
    let words = len / 8;
    assert_eq!(
        npu.execute(Command::Sum { from: 0, len }).unwrap(),
        3 * words
    );
    bench.audit();
}

#[test]
fn commands_that_make_no_sense_are_refused_and_change_nothing() {
    let bench = bench(512, 300, Unit::Page, vec![hbm(512)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 24);
    let misaligned = npu.execute(Command::AtomicAdd { at: 4, value: 1 });
    assert!(matches!(
        misaligned,
        Err(CommandError::Misaligned { address: 4, .. })
    ));
    let wraps = npu.execute(Command::Fill {
        to: u64::MAX - 3,
        len: 8,
        pattern: 1,
    });
    assert!(matches!(wraps, Err(CommandError::Wraps { .. })));
    let overlap = npu.execute(Command::Copy {
        from: 0,
        to: 4095,
        len: 4096,
    });
    assert!(matches!(overlap, Err(CommandError::Overlap { .. })));
    for at in [512 * PAGE, 1 << 40, u64::MAX - PAGE - 7] {
        let outside = npu.execute(Command::Fill {
            to: at,
            len: 8,
            pattern: 1,
        });
        assert!(
            matches!(
                outside,
                Err(CommandError::Fault(DeviceError::NotRam { .. }))
            ),
            "{outside:?}"
        );
    }
    // Sizes whose product is nothing, and that would take for ever one by one.
    let shape = Shape {
        m: 1 << 40,
        n: 0,
        k: 1,
    };
    let (element, a, b, c) = (Element::F32, 0, PAGE, 2 * PAGE);
    let product = |shape| Command::Gemm {
        shape,
        element,
        a,
        b,
        c,
    };
    // A alone would have 4 TiB, which is said first; without columns and depth nothing is left to say.
    assert!(npu.execute(product(Shape { k: 0, ..shape })).is_ok());
    assert!(npu.execute(product(Shape { n: 1, ..shape })).is_err());
    let nothing = Command::Attention {
        query: 0,
        keys: PAGE,
        values: 2 * PAGE,
        tokens: u64::MAX,
        width: 0,
        scale: 1.0,
        out: 3 * PAGE,
    };
    npu.execute(nothing).unwrap();
    // Up to the last byte of memory, and no further.
    let end = Command::Fill {
        to: 511 * PAGE + 4000,
        len: 200,
        pattern: 9,
    };
    assert!(npu.execute(end).is_err());
    npu.execute(Command::Fill {
        to: 511 * PAGE + 4000,
        len: 96,
        pattern: 9,
    })
    .unwrap();
    npu.execute(Command::Copy {
        from: 0,
        to: 0,
        len: 0,
    })
    .unwrap();
    bench.audit();
}
