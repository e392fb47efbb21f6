//! Accelerators that do not fault.

use std::thread;
use std::time::Instant;

use gmem_core::page::{PageNo, Unit};
use gmem_devices::accel::mmu::{Format, Gpu, Npu};
use gmem_devices::accel::{Command, CommandError, Processor};

use crate::simulated::{Bench, bench, hbm};
use crate::{PAGE, attach, get};

fn unit<F: Format>(bench: &Bench, pages: u64) -> Processor<F> {
    let (_, processor) = attach::<F>(bench, pages);
    processor.set_faults(false);
    processor
}

#[test]
fn without_faults_all_operands_are_there_and_results_are_the_same() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let mut npu = unit::<Npu>(&bench, 64);
    let (from, to, len) = (3 * PAGE + 16, 500 * PAGE + 4000, 20 * PAGE);
    let pattern = 0x0123_4567_89ab_cdef;
    let fill = Command::Fill {
        to: from,
        len,
        pattern,
    };
    npu.execute(fill).unwrap();
    npu.execute(Command::Copy { from, to, len }).unwrap();
    let mut expected = vec![0; len as usize];
    gmem_work::fill(&mut expected, pattern, 0);
    let seen = get(&bench, 500, 25 * PAGE as usize);
    assert!(seen[4000..4000 + len as usize] == expected[..]);
    bench.audit();
}

#[test]
fn a_command_larger_than_the_memory_is_an_error_and_nothing_of_it_is_done() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let mut gpu = unit::<Gpu>(&bench, 64);
    let fill = |pages| Command::Fill {
        to: 0,
        len: pages * PAGE,
        pattern: 7,
    };
    let refused = gpu.execute(fill(65));
    assert!(
        matches!(refused, Err(CommandError::TooLarge { bytes, memory, .. })
            if bytes == 80 * PAGE && memory == 64 * PAGE),
        "{refused:?}"
    );
    assert_eq!(get(&bench, 0, 8), [0; 8]);
    gpu.execute(fill(64)).unwrap();
    assert_eq!(get(&bench, 63, 8), 7u64.to_le_bytes());
    // Outside memory: nothing of it is done either, though its beginning is there.
    let outside = gpu.execute(Command::Fill {
        to: 1020 * PAGE,
        len: 8 * PAGE,
        pattern: 9,
    });
    assert!(matches!(outside, Err(CommandError::Fault(_))));
    assert_eq!(get(&bench, 1020, 8), [0; 8]);
    bench.audit();
}

#[test]
fn nobody_takes_a_page_from_a_command_that_has_begun() {
    const ROUNDS: u64 = 2000;
    let bench = bench(512, 300, Unit::Page, vec![hbm(512)]);
    let mut npu = unit::<Npu>(&bench, 16);
    let (at, count, stride) = (0, 8, PAGE);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let adds = Command::AtomicAdds {
                    at,
                    count,
                    stride,
                    value: 1,
                };
                npu.execute(adds).unwrap();
            }
        });
        scope.spawn(|| {
            let mut faults = bench.engine.faults();
            for n in 0..ROUNDS {
                let page = PageNo(n * 5 % count);
                while !bench.guest.add_if_present(page, 1) {
                    faults.handle(page, Instant::now()).unwrap();
                }
            }
        });
    });
    let sum: u64 = (0..count)
        .map(|page| u64::from_le_bytes(get(&bench, page, 8).try_into().unwrap()))
        .sum();
    assert_eq!(sum, ROUNDS * count + ROUNDS);
    bench.audit();
}
