//! A guest of all kinds of instructions.

use std::arch::global_asm;

use crate::machine::{CODE, UNMAPPED, has_hardware_virtualization, machine, run};

const RESULTS: u64 = 0x2_0000;

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

fn blob() -> &'static [u8] {
    // SAFETY: the labels enclose the blob.
    unsafe {
        let start = &raw const guest_start;
        std::slice::from_raw_parts(start, (&raw const guest_end).offset_from(start) as usize)
    }
}

/// Guest address of a label of the blob.
fn address_of(label: *const u8) -> u64 {
    CODE + (label as usize - &raw const guest_start as usize) as u64
}

#[test]
fn cpl0_code_gets_architectural_results_on_any_kvm() {
    let breakpoint = address_of(&raw const guest_breakpoint);
    let page_fault = address_of(&raw const guest_page_fault);
    let mut machine = machine(blob(), &[(3, breakpoint), (14, page_fault)]);
    let (finished, said) = run(&mut machine);
    assert_eq!(said, 42);
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
