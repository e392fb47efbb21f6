//! Two accelerators of different make and a vCPU in one address space: commands on guest-physical addresses.

#[path = "../../gmem-core/tests/engine/simulated.rs"]
#[allow(dead_code, reason = "shared with the engine's tests")]
mod simulated;

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
use gmem_devices::accel::{Command, CommandError, Hardware, Processor};
use gmem_work::Rows;
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
fn results_have_the_bits_that_the_vcpu_computes() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    let float = |i: usize| ((i * 37 % 1000) as f32 / 7.0 - 50.0).to_le_bytes();
    let vector = |seed: usize| -> Vec<u8> { (0..4096).flat_map(|i| float(i + seed)).collect() };
    let (x, mut y) = (vector(1), vector(99));
    let pages = (x.len() / PAGE_SIZE) as u64;
    for page in 0..pages {
        let part = |bytes: &[u8]| -> [u8; PAGE_SIZE] {
            bytes[page as usize * PAGE_SIZE..][..PAGE_SIZE]
                .try_into()
                .unwrap()
        };
        write(&bench, 100 + page, part(&x));
        write(&bench, 200 + page, part(&y));
    }
    let saxpy = Command::Saxpy {
        a: 1.25,
        x: 100 * PAGE,
        y: 200 * PAGE,
        len: x.len() as u64,
    };
    // Once on each: the second finds the first one's result.
    npu.execute(saxpy).unwrap();
    gpu.execute(saxpy).unwrap();
    gmem_work::saxpy(1.25, &x, &mut y).unwrap();
    gmem_work::saxpy(1.25, &x, &mut y).unwrap();
    let sum = Command::Sum {
        from: 200 * PAGE,
        len: y.len() as u64,
    };
    assert_eq!(npu.execute(sum).unwrap(), gmem_work::sum_u64(&y).unwrap());
    let reduce = Command::Reduce {
        from: 200 * PAGE + 4,
        len: y.len() as u64 - 8,
    };
    let mut total = gmem_work::Sum::new();
    total.add(&y[4..y.len() - 4]).unwrap();
    let bits = u64::from(total.total().to_bits());
    assert_eq!(npu.execute(reduce).unwrap(), bits);
    assert_eq!(gpu.execute(reduce).unwrap(), bits);
    let seen: Vec<u8> = (200..200 + pages)
        .flat_map(|page| read(&bench, page))
        .collect();
    assert!(seen == y);
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
fn rows_are_looked_up_across_pages_by_both_and_a_row_that_is_none_ends_it() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, mut npu) = attach::<Npu>(&bench, 64);
    let (_gpu, mut gpu) = attach::<Gpu>(&bench, 128);
    // 900 rows of 100 bytes, which cross pages; 1500 indices, which do too.
    let rows = Rows {
        count: 900,
        bytes: 100,
    };
    let table: Vec<u8> = (0..90_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
    let indices: Vec<u8> = (0..1500u32)
        .flat_map(|i| (i * 613 % 900).to_le_bytes())
        .collect();
    let mut expected = vec![0; 150_000];
    gmem_work::gather(&table, 100, &indices, &mut expected).unwrap();
    let put = |start: u64, bytes: &[u8]| {
        for (page, bytes) in (start..).zip(bytes.chunks(PAGE_SIZE)) {
            let mut whole = [0; PAGE_SIZE];
            whole[..bytes.len()].copy_from_slice(bytes);
            write(&bench, page, whole);
        }
    };
    put(100, &table);
    put(200, &indices);
    let gather = |to| Command::Gather {
        table: 100 * PAGE,
        rows,
        indices: 200 * PAGE,
        count: 1500,
        to,
    };
    npu.execute(gather(300 * PAGE + 50)).unwrap();
    gpu.execute(gather(400 * PAGE + 50)).unwrap();
    for start in [300, 400] {
        let seen: Vec<u8> = (start..start + 37)
            .flat_map(|page| read(&bench, page))
            .collect();
        assert!(seen[50..150_050] == expected[..]);
    }
    put(201, &900u32.to_le_bytes());
    let none = gpu.execute(gather(500 * PAGE));
    assert!(matches!(none, Err(CommandError::Row(_))), "{none:?}");
    let over = gpu.execute(gather(200 * PAGE + 4));
    assert!(
        matches!(over, Err(CommandError::Overlap { .. })),
        "{over:?}"
    );
    let rows = Rows {
        count: u64::MAX,
        bytes: 100,
    };
    let huge = Command::Gather {
        table: 0,
        rows,
        indices: 0,
        count: 1,
        to: 0,
    };
    assert!(matches!(npu.execute(huge), Err(CommandError::Wraps { .. })));
    bench.audit();
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
