//! CPL0 code with instructions that KVM's emulator does not know ends with the results that the SDM
//! promises: where the host has VMX or SVM, because the CPU executes them; elsewhere, because the
//! monitor finishes them.

use std::arch::global_asm;
use std::ptr::NonNull;

use gmem_vmm::fallback::{self, Access, GuestPhysical, Unsupported};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY: usize = 0x20_0000;
const PML4: u64 = 0x1000;
const GDT: u64 = 0x5000;
const IDT: u64 = 0x6000;
const CODE: u64 = 0x1_0000;
const RESULTS: u64 = 0x2_0000;
const STACK: u64 = 0x4_0000;
/// Where the guest's mapping ends: a store of 8 bytes that begins 4 before it faults.
const UNMAPPED: u64 = MEMORY as u64;

// The guest. Results go to [rdi + offset], with the offsets of `mod result`.
global_asm!(
    ".pushsection .rodata.guest, \"a\", @progbits",
    ".balign 64",
    "guest_start:",
    "mov rdi, 0x20000",
    // Integer SSE, operands in registers, relative to rip and to gs.
    "movdqa xmm0, [rip + guest_data]",
    "movdqu xmm1, [rip + guest_data + 16]",
    "movdqa xmm2, xmm0",
    "paddq xmm2, xmm1",
    "movups [rdi + 0x00], xmm2",
    "movaps xmm2, xmm0",
    "pxor xmm2, xmm1",
    "movaps [rdi + 0x10], xmm2",
    "pshufd xmm3, xmm1, 0x1b",
    "movdqu [rdi + 0x20], xmm3",
    "movups xmm4, gs:[8]",
    "movups [rdi + 0x30], xmm4",
    "movq rax, xmm1",
    "mov [rdi + 0x40], rax",
    "movhps [rdi + 0x48], xmm1",
    // Bits and flags: popcnt clears CF and SF, which the cmp sets.
    "mov rax, 0x00ff00ff00000001",
    "xor ecx, ecx",
    "cmp ecx, 1",
    "popcnt rcx, rax",
    "pushfq",
    "mov [rdi + 0x50], rcx",
    "pop qword ptr [rdi + 0x58]",
    "stac",
    "pushfq",
    "pop qword ptr [rdi + 0x60]",
    "clac",
    "pushfq",
    "pop qword ptr [rdi + 0x68]",
    // 16 bytes at once: one that matches, then one that does not.
    "mov rax, 1",
    "mov rdx, 2",
    "mov rbx, 3",
    "mov rcx, 4",
    "mov [rdi + 0x70], rax",
    "mov [rdi + 0x78], rdx",
    "lock cmpxchg16b [rdi + 0x70]",
    "setz [rdi + 0x80]",
    "lock cmpxchg16b [rdi + 0x70]",
    "setz [rdi + 0x81]",
    "mov [rdi + 0x88], rax",
    "mov [rdi + 0x90], rdx",
    // x87.
    "fnclex",
    "fwait",
    "emms",
    // A trap, whose handler returns to the next instruction.
    "int3",
    "guest_after_int3:",
    // A fault in the second page of an operand, whose handler goes to r15.
    "lea r15, [rip + guest_after_fault]",
    "mov rsi, 0x1ffffc",
    "guest_faults:",
    "movhps [rsi], xmm1",
    "mov qword ptr [rdi + 0xb8], 1",
    "guest_after_fault:",
    "mov eax, 42",
    "out 0xf4, eax",
    "hlt",
    "guest_breakpoint:",
    "mov rax, [rsp]",
    "mov [rdi + 0x98], rax",
    "iretq",
    "guest_page_fault:",
    "pop qword ptr [rdi + 0xa0]",
    "mov rax, cr2",
    "mov [rdi + 0xa8], rax",
    "mov rax, [rsp]",
    "mov [rdi + 0xb0], rax",
    "mov [rsp], r15",
    "iretq",
    ".balign 16",
    "guest_data:",
    ".quad 0x1111111122222222, 0xffffffffffffffff",
    ".quad 0x3333333344444444, 0x0000000000000002",
    "guest_end:",
    ".popsection",
);

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
    static guest_after_int3: u8;
    static guest_faults: u8;
    static guest_breakpoint: u8;
    static guest_page_fault: u8;
}

/// Guest address of a label of the blob.
fn address_of(label: *const u8) -> u64 {
    CODE + (label as usize - &raw const guest_start as usize) as u64
}

struct Ram(GuestMemoryMmap);

// SAFETY: the mapping lives as long as the value, starts at a page, and the range is checked.
unsafe impl GuestPhysical for Ram {
    fn host_address(&self, gpa: u64, len: usize, _: Access) -> Option<NonNull<u8>> {
        let slice = self.0.get_slice(GuestAddress(gpa), len).ok()?;
        NonNull::new(slice.ptr_guard_mut().as_ptr())
    }
}

impl Ram {
    fn word(&self, gpa: u64) -> u64 {
        self.0.read_obj(GuestAddress(gpa)).unwrap()
    }

    fn wide(&self, gpa: u64) -> u128 {
        self.0.read_obj(GuestAddress(gpa)).unwrap()
    }

    fn put(&self, gpa: u64, words: &[u64]) {
        for (i, word) in words.iter().enumerate() {
            let at = GuestAddress(gpa + 8 * i as u64);
            self.0.write_obj(*word, at).unwrap();
        }
    }
}

struct Machine {
    vcpu: VcpuFd,
    ram: Ram,
    _vm: VmFd,
}

/// A VM in 64-bit mode at CPL0 that stands at the start of the blob.
fn machine() -> Machine {
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
    ram.put(0x3000, &[0x83]);
    ram.put(GDT, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
    for (vector, handler) in [
        (3, &raw const guest_breakpoint),
        (14, &raw const guest_page_fault),
    ] {
        let at = address_of(handler);
        let low = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        ram.put(IDT + 16 * vector, &[low, at >> 32]);
    }
    // SAFETY: the labels enclose the blob.
    let blob = unsafe {
        let start = &raw const guest_start;
        std::slice::from_raw_parts(start, (&raw const guest_end).offset_from(start) as usize)
    };
    ram.0.write_slice(blob, GuestAddress(CODE)).unwrap();

    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap())
        .unwrap();
    vcpu.set_sregs(&long_mode(vcpu.get_sregs().unwrap()))
        .unwrap();
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
    sregs.gs = kvm_segment {
        base: address_of(&raw const guest_start),
        ..data
    };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 23);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = PML4;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd00;
    sregs
}

fn has_hardware_virtualization() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|flags| flags.split(' ').any(|flag| flag == "vmx" || flag == "svm"))
}

/// Runs the guest to its end; how many instructions the monitor finished.
fn run(machine: &mut Machine) -> u32 {
    let mut finished = 0;
    loop {
        match machine.vcpu.run().expect("KVM_RUN") {
            VcpuExit::IoOut(0xf4, data) => {
                assert_eq!(data, [42, 0, 0, 0]);
                return finished;
            }
            VcpuExit::InternalError => {
                let bytes = fallback::failed_instruction(machine.vcpu.get_kvm_run())
                    .expect("an exit because of an instruction");
                fallback::emulate(&machine.vcpu, &machine.ram, &bytes).unwrap();
                finished += 1;
                assert!(finished < 100, "the guest does not get on");
            }
            other => {
                let other = format!("{other:?}");
                let regs = machine.vcpu.get_regs().unwrap();
                panic!("unexpected exit {other} at rip {:#x}", regs.rip);
            }
        }
    }
}

#[test]
fn cpl0_code_gets_architectural_results_on_any_kvm() {
    let mut machine = machine();
    let finished = run(&mut machine);
    let ram = &machine.ram;
    let at = |offset: u64| ram.word(RESULTS + offset);

    assert_eq!(at(0x00), 0x4444_4444_6666_6666, "paddq, low");
    assert_eq!(at(0x08), 1, "paddq, high, wraps");
    assert_eq!(at(0x10), 0x2222_2222_6666_6666, "pxor, low");
    assert_eq!(at(0x18), !2, "pxor, high");
    assert_eq!(at(0x20), 0x0000_0002_0000_0000, "pshufd, low");
    assert_eq!(at(0x28), 0x4444_4444_3333_3333, "pshufd, high");
    assert_eq!(ram.wide(RESULTS + 0x30), ram.wide(CODE + 8), "gs base");
    assert_eq!(at(0x40), 0x3333_3333_4444_4444, "movq");
    assert_eq!(at(0x48), 2, "movhps");
    assert_eq!(at(0x50), 17, "popcnt");
    assert_eq!(at(0x58) & 0x8d5, 0, "popcnt clears the flags");
    assert_eq!(at(0x60) >> 18 & 1, 1, "stac");
    assert_eq!(at(0x68) >> 18 & 1, 0, "clac");
    assert_eq!([at(0x70), at(0x78)], [3, 4], "cmpxchg16b, match");
    assert_eq!(at(0x80), 1, "ZF of the first cmpxchg16b, then the second");
    assert_eq!([at(0x88), at(0x90)], [3, 4], "cmpxchg16b, no match");
    let after_int3 = address_of(&raw const guest_after_int3);
    assert_eq!(at(0x98), after_int3, "int3 saves the next rip");
    assert_eq!(at(0xa0), 2, "error code: write, page not present");
    assert_eq!(at(0xa8), UNMAPPED, "cr2");
    let faults = address_of(&raw const guest_faults);
    assert_eq!(at(0xb0), faults, "a fault saves its own rip");
    assert_eq!(at(0xb8), 0, "the store did not end");
    assert_eq!(ram.word(UNMAPPED - 8), 0, "nor was it done in part");

    println!("instructions finished by the monitor: {finished}");
    assert!(
        finished > 0 || has_hardware_virtualization(),
        "neither VMX nor SVM, and yet the monitor had nothing to finish"
    );
}

/// Puts `code` before the vCPU and has the monitor finish it, without running the vCPU.
fn finish(machine: &Machine, code: &[u8]) -> Result<(), Unsupported> {
    machine.ram.0.write_slice(code, GuestAddress(CODE)).unwrap();
    fallback::emulate(&machine.vcpu, &machine.ram, &[])
}

#[test]
fn an_instruction_that_is_not_covered_is_named_with_its_bytes_and_its_place() {
    let machine = machine();
    let before = machine.vcpu.get_regs().unwrap();
    let error = finish(&machine, &[0x66, 0x0f, 0x38, 0xdc, 0xc1, 0x90]).unwrap_err();
    let message = error.to_string();
    for part in [
        "`aesenc`",
        "66 0f 38 dc c1)",
        "rip 0x10000, CPL 0",
        "VMX or SVM",
    ] {
        assert!(message.contains(part), "{part} in: {message}");
    }
    assert_eq!(machine.vcpu.get_regs().unwrap(), before);
}

#[test]
fn an_operand_outside_ram_is_reported_and_changes_nothing() {
    let machine = machine();
    // The page at 2 MiB maps the guest-physical address 1 GiB, where there is no memory.
    machine.ram.put(0x3008, &[0x4000_0083]);
    let mut before = machine.vcpu.get_regs().unwrap();
    before.rsi = UNMAPPED + 0x120;
    machine.vcpu.set_regs(&before).unwrap();
    let error = finish(&machine, &[0x0f, 0x10, 0x06]).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(
            error,
            Unsupported::NotRam {
                gpa: 0x4000_0120,
                ..
            }
        ),
        "{message}"
    );
    assert!(message.contains("`movups` (bytes 0f 10 06)"), "{message}");
    assert_eq!(machine.vcpu.get_regs().unwrap(), before);
}

#[test]
fn a_fetch_from_a_page_that_is_not_there_is_a_page_fault() {
    let machine = machine();
    let mut regs = machine.vcpu.get_regs().unwrap();
    regs.rip = UNMAPPED;
    machine.vcpu.set_regs(&regs).unwrap();
    fallback::emulate(&machine.vcpu, &machine.ram, &[]).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!(
        (exception.injected, exception.nr, exception.error_code),
        (1, 14, 0x10)
    );
    assert_eq!(machine.vcpu.get_sregs().unwrap().cr2, UNMAPPED);
}

#[test]
fn an_invalid_instruction_is_an_invalid_opcode_exception() {
    let machine = machine();
    // `lock` is not allowed before popcnt.
    finish(&machine, &[0xf0, 0xf3, 0x0f, 0xb8, 0xc0]).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!(
        (exception.injected, exception.nr, exception.has_error_code),
        (1, 6, 0)
    );
    assert_eq!(machine.vcpu.get_regs().unwrap().rip, CODE);
}

#[test]
fn a_single_step_ends_with_a_debug_exception() {
    let machine = machine();
    let mut regs = machine.vcpu.get_regs().unwrap();
    regs.rflags |= 1 << 8;
    machine.vcpu.set_regs(&regs).unwrap();
    finish(&machine, &[0x66, 0x0f, 0xef, 0xc0]).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!((exception.injected, exception.nr), (1, 1));
    assert_ne!(machine.vcpu.get_debug_regs().unwrap().dr6 & 1 << 14, 0);
    assert_eq!(machine.vcpu.get_regs().unwrap().rip, CODE + 4);
}
