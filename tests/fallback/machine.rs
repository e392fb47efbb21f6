//! A small machine in 64-bit mode at CPL0, whose failed instructions the monitor finishes.

use std::ptr::NonNull;

use gmem_vmm::fallback::{self, Access, GuestPhysical, Unsupported};
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY: usize = 0x20_0000;
/// The top-level page table.
pub const PML4: u64 = 0x1000;
/// The level of 2 MiB pages.
pub const DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
/// Where code is put and execution begins.
pub const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x4_0000;
/// Where the guest's mapping ends: a store of 8 bytes that begins 4 before it faults.
pub const UNMAPPED: u64 = MEMORY as u64;

/// The guest's memory.
pub struct Ram(GuestMemoryMmap);

// SAFETY: the mapping lives as long as the value, starts at a page, and the range is checked.
unsafe impl GuestPhysical for Ram {
    fn host_address(&self, gpa: u64, len: usize, _: Access) -> Option<NonNull<u8>> {
        let slice = self.0.get_slice(GuestAddress(gpa), len).ok()?;
        NonNull::new(slice.ptr_guard_mut().as_ptr())
    }
}

impl Ram {
    /// Eight bytes.
    pub fn word(&self, gpa: u64) -> u64 {
        self.0.read_obj(GuestAddress(gpa)).unwrap()
    }

    /// Sixteen bytes.
    pub fn wide(&self, gpa: u64) -> u128 {
        self.0.read_obj(GuestAddress(gpa)).unwrap()
    }

    /// Writes bytes.
    pub fn bytes(&self, gpa: u64, bytes: &[u8]) {
        self.0.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    /// Reads bytes.
    pub fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    /// Writes words.
    pub fn put(&self, gpa: u64, words: &[u64]) {
        for (i, word) in words.iter().enumerate() {
            let at = GuestAddress(gpa + 8 * i as u64);
            self.0.write_obj(*word, at).unwrap();
        }
    }
}

/// A virtual machine with one vCPU.
pub struct Machine {
    /// The vCPU.
    pub vcpu: VcpuFd,
    /// The memory.
    pub ram: Ram,
    _vm: VmFd,
}

/// A machine in 64-bit mode at CPL0, with all of XSAVE on, that stands at the start of `code`. `handlers`
/// are addresses by vector.
pub fn machine(code: &[u8], handlers: &[(u64, u64)]) -> Machine {
    let kvm = Kvm::new().unwrap_or_else(|e| {
        panic!("this test needs KVM, and /dev/kvm cannot be opened ({e}): load the kvm module of this CPU, or get the right to use it")
    });
    let vm = kvm.create_vm().unwrap();
    fallback::enable(&vm).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let region = kvm_userspace_memory_region {
        memory_size: MEMORY as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
        ..Default::default()
    };
    let ram = Ram(memory);
    // SAFETY: the mapping outlives the VM: both are in `Machine`, and nobody else uses it.
    unsafe { vm.set_user_memory_region(region) }.unwrap();

    // One page table with one page of 2 MiB; what follows is not mapped.
    ram.put(PML4, &[0x2003]);
    ram.put(0x2000, &[0x3003]);
    ram.put(DIRECTORY, &[0x83]);
    ram.put(GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    for &(vector, handler) in handlers {
        let low = handler & 0xffff | 8 << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
        ram.put(IDT + 16 * vector, &[low, handler >> 32]);
    }
    ram.bytes(CODE, code);

    let vcpu = vm.create_vcpu(0).unwrap();
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let mut xcr0 = 1;
    for entry in cpuid.as_mut_slice() {
        match (entry.function, entry.index) {
            // A KVM without VMX and SVM hides XSAVE, and yet has it.
            (1, _) => entry.ecx |= 1 << 26,
            (0xd, 0) => xcr0 = u64::from(entry.edx) << 32 | u64::from(entry.eax),
            _ => {}
        }
    }
    vcpu.set_cpuid2(&cpuid).unwrap();
    vcpu.set_sregs(&long_mode(vcpu.get_sregs().unwrap()))
        .unwrap();
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = xcr0;
    vcpu.set_xcrs(&xcrs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rsp, regs.rflags) = (CODE, STACK, 2);
    vcpu.set_regs(&regs).unwrap();
    Machine { vcpu, ram, _vm: vm }
}

fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    let code = kvm_segment {
        limit: 0xffff_ffff,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        l: 0,
        db: 1,
        ..code
    };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.ss, sregs.fs) = (data, data, data, data);
    sregs.gs = kvm_segment { base: CODE, ..data };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 23);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x4_0620;
    sregs.efer = 0xd00;
    sregs
}

/// Whether the CPU executes CPL0 code itself.
pub fn has_hardware_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "vmx" || flag == "svm"))
}

/// Runs the guest to its end: how many instructions the monitor finished, and what the guest said.
pub fn run(machine: &mut Machine) -> (u32, u32) {
    let mut finished = 0;
    loop {
        match machine.vcpu.run().expect("KVM_RUN") {
            VcpuExit::IoOut(0xf4, data) => {
                return (finished, u32::from_le_bytes(data.try_into().unwrap()));
            }
            VcpuExit::InternalError => {
                let bytes = fallback::failed_instruction(machine.vcpu.get_kvm_run())
                    .expect("an exit because of an instruction");
                fallback::emulate(&mut machine.vcpu, &machine.ram, &bytes).unwrap();
                finished += 1;
                assert!(finished < 10_000, "the guest does not get on");
            }
            other => {
                let other = format!("{other:?}");
                let regs = machine.vcpu.get_regs().unwrap();
                panic!("unexpected exit {other} at rip {:#x}", regs.rip);
            }
        }
    }
}

/// Puts `code` before the vCPU and has the monitor finish it, without running the vCPU.
pub fn finish(machine: &mut Machine, code: &[u8]) -> Result<(), Unsupported> {
    machine.ram.bytes(CODE, code);
    finish_at_rip(machine)
}

/// Has the monitor finish the instruction at RIP.
pub fn finish_at_rip(machine: &mut Machine) -> Result<(), Unsupported> {
    fallback::emulate(&mut machine.vcpu, &machine.ram, &[])?;
    // KVM takes the registers at the next KVM_RUN, also where that executes nothing.
    machine.vcpu.set_kvm_immediate_exit(1);
    let error = machine.vcpu.run().unwrap_err();
    assert_eq!(error.errno(), libc::EINTR);
    machine.vcpu.set_kvm_immediate_exit(0);
    Ok(())
}
