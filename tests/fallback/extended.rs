//! Extended state: what CPL0 code saves is what KVM holds for the vCPU, and what it restores KVM gets.

use std::arch::global_asm;

use kvm_bindings::kvm_xsave;

use crate::machine::{Machine, machine, run};

const AREA: u64 = 0x2_0000;
const FXSAVE_AREA: u64 = 0x2_2000;
const OTHER: u64 = 0x2_4000;
const RESULTS: u64 = 0x2_6000;

global_asm!(
    ".pushsection .rodata.guest_extended, \"a\", @progbits",
    "guest_extended_start:",
    "xor ecx, ecx",
    "xgetbv",
    "mov [0x26000], eax",
    "mov edi, 0x20000",
    "mov eax, -1",
    "mov edx, -1",
    "xsave64 [rdi]",
    "fxsave64 [0x22000]",
    "stmxcsr [0x26008]",
    "fnstcw [0x26010]",
    // Another state, in part: x87 and SSE of the area there.
    "mov eax, 3",
    "xor edx, edx",
    "xrstor64 [0x24000]",
    "mov eax, 42",
    "out 0xf4, eax",
    "hlt",
    "guest_extended_end:",
    ".popsection",
);

unsafe extern "C" {
    static guest_extended_start: u8;
    static guest_extended_end: u8;
}

fn guest() -> Machine {
    // SAFETY: the labels enclose the code.
    let code = unsafe {
        let start = &raw const guest_extended_start;
        let len = (&raw const guest_extended_end).offset_from(start) as usize;
        std::slice::from_raw_parts(start, len)
    };
    machine(code, &[])
}

fn bytes(state: &kvm_xsave) -> Vec<u8> {
    state.region.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A state in which every component that the guest may use holds something.
fn busy(machine: &Machine) -> kvm_xsave {
    let mut state = machine.vcpu.get_xsave().unwrap();
    let xcr0 = machine.vcpu.get_xcrs().unwrap().xcrs[0].value;
    for (i, word) in state.region.iter_mut().enumerate() {
        *word = (i as u32 + 1).wrapping_mul(0x9e37_79b9);
    }
    // Control 0x37f, no x87 errors, registers 0, 2 and 7 in use, no pointers.
    state.region[0] = 0x3800_037f;
    state.region[1] = 0x85;
    state.region[2..6].fill(0);
    state.region[6] = 0x1fa0;
    for register in 0..8 {
        // 10 bytes of 16 are the register.
        state.region[8 + 4 * register + 2] &= 0xffff;
        state.region[8 + 4 * register + 3] = 0;
    }
    state.region[104..144].fill(0);
    state.region[128] = xcr0 as u32;
    state
}

#[test]
fn saved_state_is_the_vcpus_and_restored_state_becomes_it() {
    let mut machine = guest();
    let state = busy(&machine);
    // SAFETY: no larger states were asked for.
    unsafe { machine.vcpu.set_xsave(&state) }.unwrap();
    let before = bytes(&machine.vcpu.get_xsave().unwrap());
    let xcr0 = machine.vcpu.get_xcrs().unwrap().xcrs[0].value;

    let mut other = vec![0; 576];
    other[..4].copy_from_slice(&[0x7f, 0x02, 0, 0]);
    other[24..28].copy_from_slice(&0x1f84_u32.to_le_bytes());
    other[160..416].fill(0x5a);
    // x87 is not in the area: it is reset; SSE is.
    other[512] = 2;
    machine.ram.bytes(OTHER, &other);

    let (_, said) = run(&mut machine);
    assert_eq!(said, 42);
    let ram = &machine.ram;
    assert_eq!(ram.word(RESULTS), xcr0, "xgetbv");
    assert_eq!(ram.word(RESULTS + 8), 0x1fa0, "stmxcsr");
    assert_eq!(ram.word(RESULTS + 16), 0x037f, "fnstcw");

    let saved = ram.read(AREA, 4096);
    let xsave_size = 576.max(components(xcr0).map(|(at, len)| at + len).max().unwrap());
    assert_eq!(ram.word(AREA + 512), xcr0, "XSTATE_BV: all in use");
    assert_eq!(saved[..28], before[..28], "x87 and MXCSR");
    assert_eq!(saved[32..416], before[32..416], "registers");
    for (at, len) in components(xcr0) {
        assert_eq!(saved[at..at + len], before[at..at + len], "at {at}");
    }
    assert!(saved[xsave_size..].iter().all(|&byte| byte == 0));
    let fxsaved = ram.read(FXSAVE_AREA, 512);
    assert_eq!(fxsaved[..416], saved[..416], "fxsave");

    let after = bytes(&machine.vcpu.get_xsave().unwrap());
    assert_eq!(after[..8], [0x7f, 0x03, 0, 0, 0, 0, 0, 0], "x87 is reset");
    assert_eq!(after[24..28], 0x1f84_u32.to_le_bytes(), "MXCSR");
    assert_eq!(after[32..160], [0; 128], "x87 registers");
    assert_eq!(after[160..416], [0x5a; 256], "XMM");
    for (at, len) in components(xcr0) {
        assert_eq!(after[at..at + len], before[at..at + len], "kept, at {at}");
    }
}

/// Offset and length of the components of `xcr0` beyond SSE, by the host's CPUID.
fn components(xcr0: u64) -> impl Iterator<Item = (usize, usize)> {
    (2..63).filter(move |n| xcr0 >> n & 1 != 0).map(|n| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, n);
        (leaf.ebx as usize, leaf.eax as usize)
    })
}
