//! A device of one's own in a guest's address space: `cargo run --example attach`.
//!
//! docs/porting.md goes through it. There is no vCPU here: a thread of this process touches the guest's memory, which is served
//! as a vCPU's accesses are. Needs userfaultfd (`gmem check`), not KVM.

mod driver;
mod mmu;

use std::error::Error;
use std::sync::Arc;

use driver::Adder;
use gmem_core::page::{PAGE_SIZE, PageNo, Unit};
use gmem_core::policy::Prefetching;
use gmem_devices::virtio::DeviceMemory;
use gmem_vmm::kvm::affinity;
use gmem_vmm::memory::managed::ManagedMemory;
use gmem_vmm::memory::plan::{Lower, Plan};
use gmem_vmm::memory::ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 64 << 20;
const PAGES: u64 = MEMORY / PAGE_SIZE as u64;

/// Runs the example; what it prints is what it returns.
pub fn run() -> Result<String, Box<dyn Error>> {
    // A guest of 64 MiB of which 16 fit the host; the rest is compressed.
    let plan = Plan {
        budget: 16 << 20,
        unit: Unit::Page,
        lower: vec![Lower::Zip { bytes: MEMORY }],
        overcommit: true,
        huge: false,
        prefetch: Prefetching::All,
    };
    let memory = ManagedMemory::new(Arc::new(GuestRam::new(MEMORY)?), Some(plan));
    memory.arm_for_accelerators(&affinity::allowed_cpus()?)?;
    let engine = memory
        .engine()
        .ok_or("memory that was armed has an engine")?;

    let adder = Adder::attach(engine, 4 << 20)?;
    let start = |page: u64| GuestAddress(page * PAGE_SIZE as u64);
    let view = memory.view();
    for page in 0..PAGES {
        view.write_slice(&[page as u8; PAGE_SIZE], start(page))?;
    }
    let mut total = 0;
    for page in 0..PAGES {
        // A pointer is a pointer: the device is told a guest-physical page, and finds what was written there.
        let sum = adder.add_up(PageNo(page))?;
        let seen: u64 = view.read_obj(start(page))?;
        if (sum, seen) != (PAGE_SIZE as u64 * (page & 0xff), sum) {
            return Err(format!("page {page}: the device says {sum}, memory {seen}").into());
        }
        total += sum;
    }
    adder.detach()?;
    let flows = engine.stats().flows();
    let moved: u64 = flows.iter().map(|flow| flow.bytes()).sum();
    Ok(format!(
        "{PAGES} pages added up to {total}, in 4 MiB of device memory and 16 MiB of host RAM; {} MiB moved",
        moved >> 20
    ))
}

#[allow(dead_code, reason = "the test of the example calls what it does")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("{}", run()?);
    Ok(())
}
