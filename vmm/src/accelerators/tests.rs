//! The address space as virtio-gmem shows it, on real userfaultfd, with accelerators and tiers.

use gmem_core::accel::Advice;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;
use gmem_devices::virtio::DeviceMemory;
use gmem_devices::virtio::gmem::{NodeError, Nodes};
use gmem_wire::gmem::kind;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::kvm::affinity;
use crate::memory::managed::ManagedMemory;
use crate::memory::plan::{Lower, Plan};
use crate::memory::ram::GuestRam;

const MEMORY: u64 = 32 << 20;
const PAGE: u64 = 4096;
/// The nodes: host RAM, compressed memory, then the accelerators.
const HOST: u32 = 0;
const ZIP: u32 = 1;
const NPU: u32 = 2;
const GPU: u32 = 3;

struct Bench {
    memory: Arc<ManagedMemory>,
    space: AddressSpace,
}

impl Bench {
    fn new() -> Self {
        let plan = Plan {
            budget: 8 << 20,
            unit: Unit::Page,
            lower: vec![Lower::Zip { bytes: MEMORY }],
            overcommit: true,
            huge: false,
            prefetch: Prefetching::All,
        };
        let ram = Arc::new(GuestRam::new(MEMORY).unwrap());
        let memory = Arc::new(ManagedMemory::new(ram, Some(plan)));
        memory
            .arm_for_accelerators(&affinity::allowed_cpus().unwrap())
            .unwrap();
        let config = |arch| AccelConfig {
            arch,
            hbm: 2 << 20,
            latency_us: 0.0,
            gbps: None,
            remote_latency_us: 0.0,
            hbm_latency_us: 0.0,
            hbm_gbps: None,
            faults: true,
            streams: 1,
            placement: Placement::FirstTouch,
        };
        let host: Arc<dyn HostMemory> = memory.ram().clone();
        let configs = [config(Arch::Npu), config(Arch::Gpu)];
        let accelerators = Accelerators::new(&configs, &[0..MEMORY, 0..0], &host).unwrap();
        accelerators.attach(memory.engine().unwrap()).unwrap();
        let space = AddressSpace::new(&accelerators, memory.clone());
        Self { memory, space }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let view = self.memory.view();
        view.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let view = self.memory.view();
        view.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn advise(&self, node: u32, at: u64, len: u64, advice: Advice) {
        self.space.advise(node, at, len, advice).unwrap();
    }
}

/// Bytes that differ from page to page.
fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|i| (i * 7 + i / PAGE + seed) as u8)
        .collect()
}

#[test]
fn a_copy_is_made_wherever_both_ends_are() {
    let bench = Bench::new();
    let len = 5 * PAGE + 123;
    for (round, (source, to)) in [HOST, ZIP, NPU, GPU]
        .into_iter()
        .flat_map(|source| [HOST, ZIP, NPU, GPU].map(|to| (source, to)))
        .enumerate()
    {
        // Not at the start of a page, and each elsewhere.
        let from = (1 << 20) + round as u64 * 0x2_0000 + 17;
        let at = (16 << 20) + round as u64 * 0x2_0000 + 1999;
        let expected = bytes(round as u64, len as usize);
        bench.write(from, &expected);
        bench.advise(source, from, len, Advice::Prefetch);
        assert!(
            bench.space.bytes_in(source, from, len).unwrap() >= len,
            "{source}"
        );
        bench.space.copy(to, at, from, len).unwrap();
        assert!(
            bench.space.bytes_in(to, at, len).unwrap() >= len,
            "{source} to {to}"
        );
        assert_eq!(bench.read(at, len as usize), expected, "{source} to {to}");
        assert_eq!(bench.read(from, len as usize), expected, "{source} to {to}");
        assert_eq!(bench.read(at - 9, 9), [0; 9], "before it");
        assert_eq!(bench.read(at + len, 9), [0; 9], "behind it");
    }
}

#[test]
fn nodes_say_what_they_are_and_what_they_have() {
    let bench = Bench::new();
    assert_eq!(bench.space.count(), 4);
    let kinds = (0..4).map(|node| bench.space.node(node).unwrap().kind);
    assert_eq!(
        kinds.collect::<Vec<_>>(),
        [kind::RAM, kind::ZIP, kind::HBM, kind::HBM]
    );
    assert_eq!(bench.space.node(4), None);
    bench.write(0, &bytes(1, 64 << 10));
    bench.advise(GPU, 0, 64 << 10, Advice::Prefetch);
    let gpu = bench.space.node(GPU).unwrap();
    assert_eq!((gpu.used, gpu.peak), (64 << 10, 64 << 10));
    assert!(gpu.capacity < 2 << 20, "page tables are in it too");
}

#[test]
fn advice_does_what_it_says() {
    let bench = Bench::new();
    bench.write(0, &bytes(3, 4 * PAGE as usize));
    bench.advise(NPU, 0, 4 * PAGE, Advice::Prefetch);
    bench.advise(NPU, 0, 4 * PAGE, Advice::WillNeed);
    bench.advise(ZIP, 0, 2 * PAGE, Advice::WillNeed);
    // Inward: the middle pages only.
    bench.advise(NPU, 1, 3 * PAGE, Advice::DontNeed);
    let mut expected = bytes(3, 4 * PAGE as usize);
    expected[PAGE as usize..3 * PAGE as usize].fill(0);
    assert_eq!(bench.read(0, 4 * PAGE as usize), expected);
    bench.advise(HOST, 0, PAGE, Advice::Pinned);
    let freed = bench.space.advise(HOST, 0, PAGE, Advice::DontNeed);
    assert_eq!(freed, Err(NodeError::Pinned));
    bench.advise(HOST, 0, PAGE, Advice::Unpinned);
    bench.advise(HOST, 0, PAGE, Advice::DontNeed);
    assert_eq!(bench.read(0, 16), [0; 16]);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = Bench::new();
    let space = &bench.space;
    for advice in [Advice::Prefetch, Advice::Pinned, Advice::DontNeed] {
        for node in 0..4 {
            let outside = space.advise(node, MEMORY - PAGE, 2 * PAGE, advice);
            assert_eq!(outside, Err(NodeError::NotRam), "{node} {advice:?}");
            // No page lies wholly within the last bytes of all.
            let last = space.advise(node, u64::MAX - PAGE, PAGE, advice);
            let inward = advice == Advice::DontNeed;
            let expected = if inward {
                Ok(())
            } else {
                Err(NodeError::NotRam)
            };
            assert_eq!(last, expected, "{node} {advice:?}");
        }
        let nowhere = space.advise(4, 0, PAGE, advice);
        assert_eq!(nowhere, Err(NodeError::Invalid));
    }
    for node in 0..4 {
        assert_eq!(space.copy(node, 0, MEMORY, PAGE), Err(NodeError::NotRam));
        assert_eq!(
            space.copy(node, MEMORY - 1, 0, PAGE),
            Err(NodeError::NotRam)
        );
    }
    assert_eq!(space.copy(9, 0, PAGE, 1), Err(NodeError::Invalid));
    assert_eq!(space.bytes_in(9, 0, 1), Err(NodeError::Invalid));
    assert_eq!(space.set_cap(HOST, 0), Err(NodeError::Unsupported));
    assert_eq!(space.set_cap(9, 0), Err(NodeError::Invalid));
}

#[test]
fn a_cap_below_what_is_used_is_refused_and_one_above_holds() {
    let bench = Bench::new();
    let len = 256 << 10;
    bench.write(0, &bytes(1, 2 * len));
    // Migrated, not copied: copies would make way for the cap.
    bench.space.copy(NPU, 1 << 20, 0, len as u64).unwrap();
    let used = bench.space.node(NPU).unwrap().used;
    assert!(used >= len as u64);
    assert_eq!(
        bench.space.set_cap(NPU, used - PAGE),
        Err(NodeError::NoMemory)
    );
    bench.space.set_cap(NPU, used).unwrap();
    bench
        .space
        .copy(NPU, 2 << 20, len as u64, len as u64)
        .unwrap();
    assert!(bench.space.node(NPU).unwrap().used <= used);
    assert_eq!(bench.read(2 << 20, len), bytes(1, 2 * len)[len..]);
}
