//! Memory without a vCPU: device threads are all there is.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gmem_core::page::{PAGE_SIZE, Unit};
use gmem_core::policy::Prefetching;
use gmem_devices::virtio::DeviceMemory;
use gmem_vmm::kvm::affinity;
use gmem_vmm::memory::managed::ManagedMemory;
use gmem_vmm::memory::plan::{Lower, Plan};
use gmem_vmm::memory::ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

pub const MIB: u64 = 1 << 20;
pub const PAGE: u64 = PAGE_SIZE as u64;

/// One test at a time: several look at the process's memory as a whole.
static ALONE: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of `size` bytes with a budget, HBM beneath it, and a fault handler on each CPU.
pub fn memory(size: u64, budget: u64, hbm: u64, unit: Unit) -> ManagedMemory {
    let ram = Arc::new(GuestRam::new(size).unwrap());
    let plan = Plan {
        overcommit: true,
        ..plan(budget, hbm, unit)
    };
    let memory = ManagedMemory::new(ram, Some(plan));
    memory.prepare().unwrap();
    memory.arm_if_needed(&cpus()).unwrap();
    memory
}

pub fn plan(budget: u64, hbm: u64, unit: Unit) -> Plan {
    Plan {
        budget,
        unit,
        lower: vec![Lower::Hbm {
            bytes: hbm,
            latency_us: 0.0,
            gbps: None,
        }],
        overcommit: false,
        huge: false,
        prefetch: Prefetching::All,
    }
}

pub fn cpus() -> Vec<usize> {
    affinity::allowed_cpus().unwrap()
}

/// A word that belongs in page `page`, and in no other.
pub fn word(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes a word into each page of a range of bytes, as a device does.
pub fn write(memory: &ManagedMemory, gpa: u64, len: u64) {
    for at in (gpa..gpa + len).step_by(PAGE_SIZE) {
        memory
            .view()
            .write_obj(word(at / PAGE), GuestAddress(at + 8))
            .unwrap();
    }
}

pub fn read(memory: &ManagedMemory, page: u64) -> u64 {
    let at = GuestAddress(page * PAGE + 8);
    memory.view().read_obj(at).unwrap()
}

/// The books agree with themselves, and nothing went wrong.
pub fn audit(memory: &ManagedMemory) {
    assert_eq!(memory.failure(), None);
    if let Some(engine) = memory.engine() {
        let audit = engine.audit(&engine.quiesce());
        assert_eq!(audit.contradictions, Vec::<String>::new());
    }
}

/// Private memory of this process, bytes.
pub fn rss_anon() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}
