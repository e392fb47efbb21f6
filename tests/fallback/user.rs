//! User code: its system calls arrive, its page faults stay page faults, and it gets back what it had.

use std::arch::global_asm;

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_segment};

use crate::machine::{CODE, DIRECTORY, Machine, PML4, machine, run};

const PDPT: u64 = 0x2000;
const TABLE: u64 = 0x8000;
const GDT: u64 = 0x5000;
const TSS: u64 = 0x9000;
const USER_CODE: u64 = 0x3_0000;
const USER_STACK: u64 = 0x3_2000;
const RESULTS: u64 = 0x2_6000;
/// Where user code finds no page.
const HOLE: u64 = 0x5_0000;
/// The kernel's second place: the upper half.
const UPPER: u64 = 0xffff_ff80_0000_0000;

global_asm!(
    ".pushsection .rodata.guest_user, \"a\", @progbits",
    "guest_user_start:",
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [0x24000]",
    "push 0x2b",
    "push 0x32000",
    "push 0x202",
    "push 0x33",
    "push 0x30000",
    "iretq",
    // Of the upper half.
    ".balign 16",
    "guest_user_system_call:",
    "cmp eax, 2",
    "je 2f",
    "mov [0x26000], rcx",
    "mov [0x26008], r11",
    "mov [0x26010], rsp",
    "mov [0x26018], rax",
    "mov ax, cs",
    "mov [0x26020], rax",
    "mov ax, ss",
    "mov [0x26028], rax",
    "mov rbx, rsp",
    "mov rsp, 0x40000",
    "pushfq",
    "pop qword ptr [0x26030]",
    "mov rsp, rbx",
    "mov eax, 77",
    "sysretq",
    "2:",
    "mov [0x26048], r8",
    "mov [0x26050], rsp",
    "mov [0x26058], r9",
    "mov eax, 42",
    "out 0xf4, eax",
    "hlt",
    // Begins as Linux's does.
    ".balign 16",
    "guest_user_page_fault:",
    "nop dword ptr [rax]",
    "pop qword ptr [0x26038]",
    "mov rbx, cr2",
    "mov [0x26040], rbx",
    "add qword ptr [rsp], 8",
    "iretq",
    "guest_user_end:",
    ".popsection",
    // What the user executes.
    ".pushsection .rodata.guest_program, \"a\", @progbits",
    "guest_program_start:",
    "mov rbx, [0x50000]", // 8 bytes, and the handler skips them
    "mov eax, 1",
    "stc",
    "std",
    "syscall",
    "guest_program_after:",
    "mov r8d, eax",
    "pushfq",
    "pop r9",
    "mov eax, 2",
    "syscall",
    "guest_program_end:",
    ".popsection",
);

unsafe extern "C" {
    static guest_user_start: u8;
    static guest_user_system_call: u8;
    static guest_user_page_fault: u8;
    static guest_user_end: u8;
    static guest_program_start: u8;
    static guest_program_after: u8;
    static guest_program_end: u8;
}

/// The bytes between two labels.
fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both labels are of one section.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

fn offset(label: *const u8, start: *const u8) -> u64 {
    (label as usize - start as usize) as u64
}

/// A guest that is about to enter its user code.
fn guest() -> Machine {
    let start = &raw const guest_user_start;
    let handler = CODE + offset(&raw const guest_user_page_fault, start);
    let system_call = offset(&raw const guest_user_system_call, start);
    let code = between(start, &raw const guest_user_end);
    let machine = machine(code, &[(14, handler)]);

    let ram = &machine.ram;
    let program = between(&raw const guest_program_start, &raw const guest_program_end);
    ram.bytes(USER_CODE, program);
    // 4 KiB pages: the user's are at 0x30000 to 0x32000. The upper half shows the same.
    ram.put(PML4, &[PDPT | 7]);
    ram.put(PML4 + 8 * 511, &[PDPT | 7]);
    ram.put(PDPT, &[DIRECTORY | 7]);
    ram.put(DIRECTORY, &[TABLE | 7]);
    for page in 0..512 {
        let user = (USER_CODE..USER_STACK).contains(&(page << 12));
        let entry = page << 12 | if user { 7 } else { 3 };
        ram.put(TABLE + 8 * page, &[entry]);
    }
    ram.put(TABLE + 8 * (HOLE >> 12), &[0]);
    // From selector 0x20 on: code of 32 bits, data, code of 64 bits; the task state segment.
    let user = [
        0x00cf_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
    ];
    ram.put(GDT + 0x20, &user);
    ram.put(GDT + 0x40, &[0x0000_8900_0000_0067 | TSS << 16, 0]);
    ram.put(TSS + 4, &[0x4_0000]);

    let mut sregs = machine.vcpu.get_sregs().unwrap();
    sregs.gdt.limit = 0x4f;
    sregs.efer |= 1;
    sregs.tr = kvm_segment {
        base: TSS,
        limit: 0x67,
        selector: 0x40,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    machine.vcpu.set_sregs(&sregs).unwrap();
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[
        msr(0xc000_0081, 0x0020_0008 << 32),
        msr(0xc000_0082, UPPER + CODE + system_call),
        msr(0xc000_0084, 0x0700),
    ]);
    assert_eq!(machine.vcpu.set_msrs(&msrs.unwrap()), Ok(3));
    machine
}

#[test]
fn system_calls_arrive_and_page_faults_stay_page_faults() {
    let mut machine = guest();
    let (_, said) = run(&mut machine);
    assert_eq!(said, 42);
    let at = |offset: u64| machine.ram.word(RESULTS + offset);

    assert_eq!(at(0x38), 4, "error code: user, read, not present");
    assert_eq!(at(0x40), HOLE, "cr2");

    let start = &raw const guest_program_start;
    let after = USER_CODE + offset(&raw const guest_program_after, start);
    assert_eq!(at(0x00), after, "rcx: the next instruction");
    assert_eq!(at(0x08) & 0x601, 0x601, "r11: the user's DF, IF and CF");
    assert_eq!(at(0x10), USER_STACK, "the stack is still the user's");
    assert_eq!(at(0x18), 1, "rax");
    assert_eq!((at(0x20) & 0xffff, at(0x28) & 0xffff), (8, 0x10), "cs, ss");
    assert_eq!(
        at(0x30) & 0x701,
        1,
        "IA32_FMASK clears DF, IF and TF, not CF"
    );

    assert_eq!(at(0x48), 77, "what the first one returned");
    assert_eq!(at(0x50), USER_STACK);
    assert_eq!(at(0x58) & 0x601, 0x601, "sysret brings the flags back");
}
