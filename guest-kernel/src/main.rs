//! The bundled guest's image: entry, exceptions and devices around the library's workloads.
//!
//! `boot/entry.S` is all that runs at CPL0; [`guest_main`] is where CPL3 begins. Interrupts stay off.
#![no_std]
#![no_main]

mod kernel;

use core::arch::global_asm;
use core::panic::PanicInfo;
use gmem_wire::exit;
use guest_kernel::boot::Handover;
use guest_kernel::clock::Frequency;
use guest_kernel::memory::WorkingSet;
use guest_kernel::plan::{Plan, PlanError};
use guest_kernel::work::Crew;
use guest_kernel::work::accelerated;
use guest_kernel::work::donor;
use guest_kernel::work::result::{self, Context};
use guest_kernel::work::tally::Tally;
use kernel::console::print;
use kernel::sync::{Barrier, Lock, Shared};
use kernel::{console, cpu, probes};

global_asm!(include_str!("boot/entry.S"), options(att_syntax, raw));
global_asm!(include_str!("boot/memory.S"), options(att_syntax, raw));

/// Bytes of a vCPU's block behind the image, as in `boot/entry.S`.
const CPU_BLOCK: u64 = 0x1_0000;
// A CPU's stack is 40 KiB, and what it counts lies on it, with room for histograms of the moment.
const _: () = assert!(size_of::<Tally>() <= 12 << 10);
/// End of what the page tables of the PVH entry map.
const PVH_MAPPED: u64 = 1 << 32;

/// What CPU 0 finds out and the others wait for.
struct Job {
    plan: Plan,
    set: WorkingSet,
    /// RAM's end, for the workload that writes beyond it.
    ram_end: u64,
    frequency: Frequency,
    cpus: usize,
    /// Virtio devices.
    devices: usize,
}

static JOB: Shared<Job> = Shared::new();
static BARRIER: Barrier = Barrier::new();
static TOTAL: Lock<Tally> = Lock::new(Tally::new());

/// Where `boot/entry.S` goes, on a stack of this vCPU's own.
#[unsafe(no_mangle)]
extern "C" fn guest_main(index: usize, start_info: u64, by_pvh: usize) -> ! {
    if index == 0 {
        cpu::fill_interrupt_table();
        JOB.set(prepare(start_info, by_pvh != 0));
    }
    let job = JOB.wait();
    if index < job.cpus {
        work(job, index);
    }
    if index == 0 {
        finish(job);
    }
    cpu::halt()
}

/// Reads what the monitor handed over. What is wrong with it is printed, and ends the microVM.
fn prepare(start_info: u64, by_pvh: bool) -> Job {
    // SAFETY: the entry's contract. The monitor's structures lie below the working set or are read before
    // it is used.
    let handover = match unsafe { Handover::read(start_info) } {
        Ok(handover) => handover,
        Err(error) => refuse(format_args!("{error}")),
    };
    let line = handover.command_line();
    let plan = Plan::parse(line.workload).unwrap_or_else(|error| refuse_plan(error));
    // Entered through the PVH note, this is the only vCPU that runs.
    let cpus_present = if by_pvh { 1 } else { line.cpus };
    let cpus = plan
        .cpus(cpus_present)
        .unwrap_or_else(|error| refuse_plan(error));
    let mapped = if by_pvh { PVH_MAPPED } else { u64::MAX };
    let ram = handover.ram().map(|mut region| {
        region.end = region.end.min(mapped);
        region
    });
    let floor = cpu::end_of_image() + CPU_BLOCK * cpus_present as u64;
    // SAFETY: RAM by the monitor's map, identity-mapped, and beyond the image and the vCPUs' blocks.
    let set = unsafe { WorkingSet::new(ram, floor) };
    let ram_end = set.end().max(floor);
    let set = match plan.workload.in_one_piece() {
        true => set.in_one_piece(),
        false => set,
    };
    let pages = plan
        .pages(set.pages())
        .unwrap_or_else(|error| refuse_plan(error));
    let set = set.truncated(pages);
    let machine = kernel::Bare {
        barrier: &BARRIER,
        cpus,
        devices: line.devices,
    };
    accelerated::fits(&plan, &set, &machine).unwrap_or_else(|error| refuse_plan(error));
    donor::fits(&plan, &set, &machine).unwrap_or_else(|error| refuse_plan(error));
    Job {
        plan,
        ram_end,
        set,
        frequency: cpu::frequency(line.tsc_khz),
        cpus,
        devices: line.devices,
    }
}

fn work(job: &Job, index: usize) {
    let machine = kernel::Bare {
        barrier: &BARRIER,
        cpus: job.cpus,
        devices: job.devices,
    };
    if index == 0 {
        cpu::mark_workload();
    }
    let mut tally = Tally::new();
    let crew = Crew::new(
        &machine,
        &job.plan,
        &job.set,
        job.frequency,
        index,
        job.cpus,
    );
    crew.run(&mut tally);
    probes::run(&job.plan, &job.set, job.ram_end, &mut tally);
    TOTAL.with(|total| total.merge(&tally));
    BARRIER.wait(job.cpus);
}

fn finish(job: &Job) -> ! {
    let context = Context {
        plan: &job.plan,
        cpus: job.cpus,
        pages: job.set.pages(),
        frequency: job.frequency,
    };
    TOTAL.with(|total| {
        // The console has no errors.
        let _ = result::write(&mut console::Console, &context, total);
        print!("\n");
        let verdict = if total.intact() {
            exit::SUCCESS
        } else {
            exit::MISMATCH
        };
        cpu::exit(verdict)
    })
}

fn refuse_plan(error: PlanError<'_>) -> ! {
    refuse(format_args!("{error}"))
}

fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    print!("guest: {why}\n");
    cpu::exit(exit::BAD_WORKLOAD)
}

/// Where `boot/entry.S` goes after an exception.
#[unsafe(no_mangle)]
extern "C" fn trap_report(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    print!("guest: exception {vector} error {error:#x} at rip {rip:#x}, address {address:#x}\n");
    cpu::exit(exit::TRAP)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    print!("guest: {info}\n");
    cpu::exit(exit::PANIC)
}
