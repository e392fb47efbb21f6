//! Instructions on extended state, each done twice from the same state: by the CPU that runs the test and
//! by this module. Memory and the state after them are compared.

use std::arch::asm;

use kvm_bindings::kvm_xsave;

use super::cpu::Random;
use super::{Ram, identity_map, long_mode};
use crate::fallback::fpu::{AREA, Fpu, INITIAL_MXCSR, at};
use crate::fallback::machine::{Flow, Machine, Processor, Stop, control};
use crate::fallback::xsave::Layout;
use crate::fallback::{dispatch, fetch};

/// Guest-virtual address of the memory operand, `[rdi]`.
const TARGET: u64 = 0x10_0000;
const ROUNDS: usize = 200;

/// A save area.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct Area(pub [u8; AREA]);

impl Area {
    /// All zeros.
    pub(super) fn zero() -> Box<Self> {
        Box::new(Self([0; AREA]))
    }

    /// Writes bytes.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// One instruction and what it starts from.
pub(super) struct Case {
    /// Extended state, as XRSTOR loads it.
    pub state: Box<Area>,
    /// The memory operand.
    pub target: Box<Area>,
    /// EDX:EAX.
    pub mask: u64,
}

/// What the CPU made of a case.
struct Result {
    /// Extended state before the instruction, as XSAVE sees it.
    before: Box<Area>,
    /// The same after it.
    after: Box<Area>,
    /// The memory operand.
    target: Box<Area>,
    /// EDX:EAX.
    mask: u64,
    /// The instruction's bytes.
    code: &'static [u8],
}

/// Runs one instruction on the CPU.
type OnCpu = fn(&Case) -> Result;

/// Pairs of an instruction's text and the function that runs it.
macro_rules! instructions {
    ($($text:literal)*) => {
        &[$(($text, |case: &Case| {
            let mut result = Result {
                before: Area::zero(),
                after: Area::zero(),
                target: case.target.clone(),
                mask: case.mask,
                code: &[],
            };
            let mut own = Area::zero();
            let places = [
                (&raw mut *own).cast::<u8>().cast_const(),
                (&raw const *case.state).cast(),
                (&raw mut *result.before).cast::<u8>().cast_const(),
                (&raw mut *result.after).cast::<u8>().cast_const(),
            ];
            let all = enabled();
            let (start, end): (*const u8, *const u8);
            // SAFETY: the state of this thread's FPU is put aside and brought back; the areas are large
            // enough for all components that `all` selects.
            unsafe {
                asm!(
                    "mov eax, r8d", "mov rdx, r8", "shr rdx, 32",
                    "mov rcx, [rsi]", "xsave64 [rcx]",
                    "mov rcx, [rsi + 8]", "xrstor64 [rcx]",
                    "mov rcx, [rsi + 16]", "xsave64 [rcx]",
                    "mov eax, r9d", "mov rdx, r9", "shr rdx, 32",
                    "2:", $text, "3:",
                    "shl rdx, 32", "mov eax, eax", "or rdx, rax", "mov r9, rdx",
                    "mov eax, r8d", "mov rdx, r8", "shr rdx, 32",
                    "mov rcx, [rsi + 24]", "xsave64 [rcx]",
                    "mov rcx, [rsi]", "xrstor64 [rcx]",
                    "lea rax, [rip + 2b]",
                    "lea rcx, [rip + 3b]",
                    in("rdi") &raw mut *result.target,
                    in("rsi") &places,
                    in("r8") all,
                    inout("r9") result.mask,
                    out("rax") start,
                    out("rcx") end,
                    out("rdx") _,
                );
                let len = end.offset_from(start) as usize;
                result.code = std::slice::from_raw_parts(start, len);
            }
            result
        })),*]
    };
}

/// XCR0: the components that this process may use.
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every CPU that runs KVM has XSAVE, and every kernel turns it on.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high) };
    u64::from(high) << 32 | u64::from(low)
}

/// Those of them that are tried: [`Area`] has room for them, and random values do no harm. Protection keys
/// would take this process's memory away.
pub(super) fn enabled() -> u64 {
    const PROTECTION_KEYS: u64 = 1 << 9;
    xcr0() & Layout::host().all() & !PROTECTION_KEYS
}

/// Those that are not tried.
pub(super) fn left_alone() -> u64 {
    xcr0() & !enabled()
}

/// A vCPU in this state.
pub(super) struct Held(pub Box<Area>);

impl Processor for Held {
    fn fpu(&self) -> std::result::Result<Fpu, Stop> {
        let mut area = kvm_xsave::default();
        for (word, bytes) in area.region.iter_mut().zip(self.0.0.chunks_exact(4)) {
            *word = u32::from_le_bytes(bytes.try_into().unwrap());
        }
        Ok(Fpu::from_kvm(area))
    }

    fn xcr0(&self) -> std::result::Result<u64, Stop> {
        Ok(enabled())
    }

    fn set_xcr0(&self, _: u64) -> std::result::Result<(), Stop> {
        unreachable!("no instruction here sets XCR0")
    }

    fn msrs(&self, indices: &[u32]) -> std::result::Result<Vec<u64>, Stop> {
        Ok(vec![0; indices.len()])
    }
}

pub(super) fn random_case(random: &mut Random) -> Case {
    let mut state = Area::zero();
    let mut fill = |area: &mut Area, range: std::ops::Range<usize>| {
        range
            .step_by(8)
            .for_each(|at| area.put(at, &random.word().to_le_bytes()));
    };
    fill(&mut state, 0..AREA);
    let mut target = Area::zero();
    fill(&mut target, 0..AREA);
    for area in [&mut state, &mut target] {
        well_formed(area, random);
    }
    // An XSAVE image says of SSE that it is initial even if MXCSR is not; KVM's image never does.
    if state.0[at::XSTATE_BV] & 2 == 0 {
        state.put(at::MXCSR, &INITIAL_MXCSR.to_le_bytes());
    }
    // XSAVE keeps what it finds of the header.
    let held = random.next() & random.next();
    target.put(at::XSTATE_BV, &(held & enabled()).to_le_bytes());
    Case {
        state,
        target,
        mask: !left_alone()
            & match random.next() % 4 {
                0 => u64::MAX,
                1 => random.next() & 3,
                _ => random.next(),
            },
    }
}

/// Makes random bytes an area in the standard format.
fn well_formed(area: &mut Area, random: &mut Random) {
    // No x87 exception: a processor may save its pointers only if there is one.
    let status = random.next() as u16 & 0x7f00;
    area.put(at::STATUS, &(status & !0x80).to_le_bytes());
    area.put(at::CONTROL, &0x037f_u16.to_le_bytes());
    area.put(at::TAGS, &[random.next() as u8, 0]);
    area.put(6, &[0; 18]);
    let mxcsr = random.next() as u32 & 0xffbf;
    area.put(at::MXCSR, &mxcsr.to_le_bytes());
    area.put(at::MXCSR_MASK, &[0; 4]);
    for register in 0..8 {
        area.put(at::X87_REGISTERS.start + 16 * register + 10, &[0; 6]);
    }
    area.put(at::HEADER.start, &[0; 64]);
    let present = match random.next() % 3 {
        0 => enabled(),
        1 => random.next() & enabled(),
        _ => random.next() & random.next() & enabled(),
    };
    area.put(at::XSTATE_BV, &present.to_le_bytes());
}

/// Guest memory that ends with the operand.
pub(super) fn ram() -> Ram {
    let ram = Ram::new(0x20_0000);
    identity_map(&ram);
    ram
}

pub(super) fn machine_for<'a>(ram: &'a Ram, held: &'a Held, case: &Case) -> Machine<'a> {
    ram.put(TARGET, &case.target.0);
    let mut machine = long_mode(ram);
    machine.processor = held;
    machine.sregs.cr4 |= control::CR4_OSXSAVE;
    machine.regs.rdi = TARGET;
    machine.regs.rax = case.mask & 0xffff_ffff;
    machine.regs.rdx = case.mask >> 32;
    machine
}

/// Compares memory and the components that hold anything, from the CPU and from here.
fn compare(instructions: &[(&str, OnCpu)], adjust: impl Fn(&mut Case, &mut Random)) {
    let ram = ram();
    let mut random = Random::new();
    for (text, on_cpu) in instructions {
        for round in 0..ROUNDS {
            let mut case = random_case(&mut random);
            adjust(&mut case, &mut random);
            let expected = on_cpu(&case);
            let held = Held(expected.before.clone());
            let mut machine = machine_for(&ram, &held, &case);
            let Ok(fetched) = fetch::decode(&machine, expected.code) else {
                panic!("`{text}` does not decode");
            };
            let flow = dispatch::execute(&mut machine, &fetched.decoded);
            assert_eq!(flow, Ok(Flow::Next), "`{text}`, round {round}");
            let regs = machine.regs;
            let pair = regs.rdx << 32 | regs.rax;
            assert_eq!(pair, expected.mask, "`{text}`, round {round}: edx:eax");
            let found = ram.get::<AREA>(TARGET);
            same(text, round, "memory", &found, &expected.target.0);
            let fpu = machine.fpu().unwrap();
            let what = "state";
            for range in [
                0..6,
                at::MXCSR..at::MXCSR_MASK,
                at::X87_REGISTERS,
                at::XMM,
                at::EXTENDED..AREA,
            ] {
                let found = &fpu.bytes()[range.clone()];
                same(text, round, what, found, &expected.after.0[range]);
            }
        }
    }
}

#[track_caller]
fn same(text: &str, round: usize, what: &str, found: &[u8], expected: &[u8]) {
    let Some(at) = (0..found.len()).find(|&i| found[i] != expected[i]) else {
        return;
    };
    let end = (at + 16).min(found.len());
    panic!(
        "`{text}`, round {round}: {what} differs at byte {at}: {:02x?}, the CPU has {:02x?}",
        &found[at..end],
        &expected[at..end]
    );
}

#[test]
fn saving_in_every_format_does_what_the_cpu_does() {
    compare(
        instructions! {
            "xsave64 [rdi]" "xsave [rdi]" "xsaveopt64 [rdi]" "xsaveopt [rdi]" "xsavec64 [rdi]" "xsavec [rdi]"
            "fxsave64 [rdi]" "fxsave [rdi]"
        },
        |_, _| {},
    );
}

#[test]
fn restoring_the_standard_format_does_what_the_cpu_does() {
    compare(
        instructions! { "xrstor64 [rdi]" "xrstor [rdi]" "fxrstor64 [rdi]" "fxrstor [rdi]" },
        |_, _| {},
    );
}

#[test]
fn restoring_the_compacted_format_does_what_the_cpu_does() {
    compare(
        instructions! { "xrstor64 [rdi]" "xrstor [rdi]" },
        |case, random| {
            let room = random.next() & enabled() | 1 << 63;
            let present = random.next() & room & !(1 << 63);
            case.target.put(at::XSTATE_BV, &present.to_le_bytes());
            case.target.put(520, &room.to_le_bytes());
        },
    );
}

#[test]
fn mxcsr_and_x87_control_do_what_the_cpu_does() {
    compare(
        instructions! {
            "ldmxcsr [rdi]" "stmxcsr [rdi]" "fldcw [rdi]" "fnstcw [rdi]" "fnstsw [rdi]" "fnstsw ax"
            "fninit" "fnclex" "emms" "fwait"
        },
        |case, random| {
            let value = random.next() as u32 & 0xffbf;
            case.target.put(0, &value.to_le_bytes());
            let control = random.next() as u16 | 0x40;
            case.state.put(at::CONTROL, &control.to_le_bytes());
        },
    );
}

#[test]
fn x87_errors_are_kept_as_the_cpu_keeps_them() {
    compare(
        instructions! { "fnstsw [rdi]" "fnclex" "fninit" "fxsave64 [rdi]" "xsave64 [rdi]" },
        |case, random| {
            // All masked: noted, not pending.
            let status = random.next() as u16 & 0x7f7f;
            case.state.put(at::STATUS, &status.to_le_bytes());
        },
    );
}

#[test]
fn integers_are_pushed_as_the_cpu_pushes_them() {
    compare(
        instructions! { "fild word ptr [rdi]" "fild dword ptr [rdi]" "fild qword ptr [rdi + 2]" },
        |case, random| {
            case.target.put(0, &random.word().to_le_bytes());
            case.target.put(2, &random.word().to_le_bytes());
            // Some stack overflows are to be masked, some not.
            let control = 0x037e | random.next() as u16 & 1;
            case.state.put(at::CONTROL, &control.to_le_bytes());
            if random.next() & 1 == 0 {
                case.state.put(at::TAGS, &[0]);
            }
        },
    );
}
