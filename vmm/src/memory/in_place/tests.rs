//! On real userfaultfd: threads touch guest memory like vCPUs while accelerators use it in place, copy it, take it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

use super::super::arming::Armed;
use super::super::failure::Failure;
use super::super::plan::{Lower, Plan};
use super::*;
use gmem_core::accel::{Accelerator, Attachment, Placement};
use gmem_core::engine::Destination;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::LocalMemory;
use gmem_core::page::{PAGE_SIZE, PageNo, PageRange, Unit};
use gmem_core::policy::Prefetching;
use gmem_devices::accel::mmu::{Format, Gpu, Npu};
use gmem_devices::accel::{Command, Hardware, Processor};

const PAGE: u64 = PAGE_SIZE as u64;

#[test]
fn words_are_added_to_where_the_guest_has_them() {
    let ram = GuestRam::new(4 << 20).unwrap();
    GuestRam::write(&ram, 0x2008, &7u64.to_le_bytes()).unwrap();
    assert_eq!(HostMemory::atomic_add(&ram, 0x2008, 5), 7);
    let mut word = [0; 8];
    HostMemory::read(&ram, 0x2008, &mut word);
    assert_eq!(u64::from_le_bytes(word), 12);
    // Beyond RAM there is nothing.
    assert_eq!(HostMemory::atomic_add(&ram, 1 << 40, 5), 0);
}

fn attach<F: Format>(
    armed: &Armed,
    ram: Option<&Arc<GuestRam>>,
    pages: u64,
    placement: Placement,
) -> (Arc<Attachment>, Processor<F>) {
    let tables = 64 * PAGE;
    let memory = LocalMemory::new(pages * PAGE + tables, tables, Link::new(0.0, 0.0)).unwrap();
    let hardware = Hardware::<F>::new(Arc::new(memory), 1);
    let accelerator = Accelerator::new(F::NAME, Arc::clone(hardware.memory()), hardware.clone());
    let attachment = Arc::new(accelerator.attach(&armed.engine).unwrap());
    attachment.set_placement(placement);
    let mut processor = Processor::new(&hardware, &attachment).unwrap();
    if let Some(ram) = ram {
        processor = processor.with_host(ram.clone());
    }
    (attachment, processor)
}

/// Two accelerators, a thread that touches memory like a vCPU, and one that evicts: all add up.
fn storm(placement: Placement, reaching: bool) {
    const ADDS: u64 = 10_000;
    const PAGES: u64 = 96;
    let ram = Arc::new(GuestRam::new(16 << 20).unwrap());
    let plan = Plan {
        budget: 8 << 20,
        unit: Unit::Page,
        lower: vec![Lower::Hbm {
            bytes: 32 << 20,
            latency_us: 0.0,
            gbps: None,
        }],
        overcommit: false,
        huge: false,
        prefetch: Prefetching::All,
    };
    let failure = Arc::new(Failure::default());
    let armed = Armed::new(&ram, 0, &plan, &[0], &failure).unwrap();
    let in_place = reaching.then_some(&ram);
    let (of_npu, mut npu) = attach::<Npu>(&armed, in_place, 24, placement);
    let (of_gpu, mut gpu) = attach::<Gpu>(&armed, in_place, 32, placement);
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
            for n in 0..ADDS {
                ram.atomic_add(n * 5 % PAGES * PAGE, 1);
            }
            ended.fetch_add(1, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut n = 0;
            while ended.load(Ordering::SeqCst) < 3 {
                n += 1;
                let range = PageRange::new(PageNo(n * 13 % PAGES), 1 + n % 20);
                let to = [Destination::Staged, Destination::Tier(1)][n as usize % 2];
                armed.engine.migrate(range, to).unwrap();
                thread::sleep(std::time::Duration::from_micros(200));
            }
        });
    });
    assert_eq!(failure.get(), None);
    let total: u64 = (0..PAGES).map(|page| ram.atomic_add(page * PAGE, 0)).sum();
    assert_eq!(total, 3 * ADDS);
    let audit = armed.engine.audit(&armed.engine.quiesce());
    assert_eq!(audit.contradictions, Vec::<String>::new());
    let (npu, gpu) = (of_npu.traffic(), of_gpu.traffic());
    match reaching {
        true => assert!(npu.remote + gpu.remote > 0, "{npu:?} {gpu:?}"),
        false => assert!(npu.copied_in > 0 && npu.collapsed > 0, "{npu:?}"),
    }
}

#[test]
fn no_update_is_lost_between_accelerators_and_threads_on_the_hosts_page_tables() {
    storm(Placement::Adaptive, false);
    storm(Placement::Adaptive, true);
    storm(Placement::Remote, true);
}

#[test]
fn a_write_by_the_guest_ends_the_copies_of_a_page_and_is_read_by_all() {
    let ram = Arc::new(GuestRam::new(4 << 20).unwrap());
    let plan = Plan {
        budget: 8 << 20,
        unit: Unit::Page,
        lower: Vec::new(),
        overcommit: false,
        huge: false,
        prefetch: Prefetching::All,
    };
    let failure = Arc::new(Failure::default());
    let armed = Armed::new(&ram, 0, &plan, &[0], &failure).unwrap();
    let (of_npu, mut npu) = attach::<Npu>(&armed, None, 64, Placement::Adaptive);
    let (of_gpu, mut gpu) = attach::<Gpu>(&armed, None, 64, Placement::Adaptive);
    let (from, len) = (16 * PAGE, 16 * PAGE);
    for round in 1..200u64 {
        let words = u64::to_le_bytes(round).repeat(len as usize / 8);
        GuestRam::write(&ram, from, &words).unwrap();
        let expected = round * len / 8;
        assert_eq!(npu.execute(Command::Sum { from, len }).unwrap(), expected);
        assert_eq!(gpu.execute(Command::Sum { from, len }).unwrap(), expected);
    }
    assert_eq!(failure.get(), None);
    for traffic in [of_npu.traffic(), of_gpu.traffic()] {
        // All pages were copied, each round anew, and never taken from the guest.
        assert!(traffic.collapsed >= 198 * 16, "{traffic:?}");
        assert_eq!((traffic.migrated_in, traffic.remote), (0, 0));
    }
}
