//! Each instruction is done twice on the same random inputs, by the CPU that runs the test and by
//! this module, and everything that it could have changed is compared.

use std::arch::asm;

use super::{Ram, identity_map, long_mode};
use crate::fallback::machine::{Flow, flags};
use crate::fallback::{dispatch, fetch};

/// Guest-virtual address of [`Inputs::memory`].
const MEMORY: u64 = 0x10_0000;
const ROUNDS: usize = 300;

/// What an instruction under test may read and write. Its memory operands are `[rsi + ...]`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inputs {
    memory: [u128; 4],
    xmm0: u128,
    xmm1: u128,
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    r8: u64,
    rflags: u64,
}

/// Runs one instruction on the CPU; returns the bytes that the assembler made of it.
type OnCpu = fn(&mut Inputs) -> &'static [u8];

/// Pairs of an instruction's text and the function that runs it.
macro_rules! instructions {
    ($($text:literal)*) => {
        &[$(($text, |inputs: &mut Inputs| {
            let (start, end): (*const u8, *const u8);
            // SAFETY: all registers that the instructions here touch are operands or restored; memory is
            // touched in `inputs` only, for `rsi` points to it.
            unsafe {
                asm!(
                    "push rbx",
                    "movdqu xmm0, [rdi + 64]",
                    "movdqu xmm1, [rdi + 80]",
                    "mov rax, [rdi + 96]",
                    "mov rbx, [rdi + 104]",
                    "mov rcx, [rdi + 112]",
                    "mov rdx, [rdi + 120]",
                    "mov r8, [rdi + 128]",
                    "push qword ptr [rdi + 136]",
                    "popfq",
                    "2:",
                    $text,
                    "3:",
                    "pushfq",
                    "pop qword ptr [rdi + 136]",
                    "mov [rdi + 96], rax",
                    "mov [rdi + 104], rbx",
                    "mov [rdi + 112], rcx",
                    "mov [rdi + 120], rdx",
                    "mov [rdi + 128], r8",
                    "movdqu [rdi + 64], xmm0",
                    "movdqu [rdi + 80], xmm1",
                    "pop rbx",
                    "lea rax, [rip + 2b]",
                    "lea rcx, [rip + 3b]",
                    in("rdi") &raw mut *inputs,
                    in("rsi") &raw mut *inputs,
                    out("rax") start,
                    out("rcx") end,
                    out("rdx") _,
                    out("r8") _,
                    out("xmm0") _,
                    out("xmm1") _,
                );
                std::slice::from_raw_parts(start, end.offset_from(start) as usize)
            }
        })),*]
    };
}

/// A small reproducible generator (xorshift64*), with values at the edges of lanes more often than by chance.
pub(super) struct Random(u64);

impl Random {
    /// The same numbers each time.
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Any number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number that is often at an edge.
    pub(super) fn word(&mut self) -> u64 {
        match self.next() % 6 {
            0 => 0,
            1 => u64::MAX,
            2 => 0x8000_7fff_80ff_7f00,
            3 => self.next() & 0x3f,
            4 => self.next() & self.next() & self.next(),
            _ => self.next(),
        }
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.word()) << 64 | u128::from(self.word())
    }

    fn inputs(&mut self) -> Inputs {
        let arithmetic = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF | flags::OF;
        let mut inputs = Inputs {
            memory: std::array::from_fn(|_| self.wide()),
            xmm0: self.wide(),
            xmm1: self.wide(),
            rax: self.word(),
            rbx: self.word(),
            rcx: self.word(),
            rdx: self.word(),
            r8: self.word(),
            // Interrupts are on in user space, and stay so.
            rflags: self.next() & arithmetic | 0x202,
        };
        if self.next().is_multiple_of(2) {
            inputs.xmm1 = inputs.xmm0;
            inputs.rax = inputs.memory[0] as u64;
            inputs.rdx = (inputs.memory[0] >> 64) as u64;
        }
        inputs
    }
}

/// Does the instruction `bytes` on `inputs` with this module.
fn by_emulation(ram: &Ram, bytes: &[u8], inputs: Inputs) -> Inputs {
    for (i, value) in inputs.memory.iter().enumerate() {
        ram.put(MEMORY + 16 * i as u64, &value.to_le_bytes());
    }
    let mut machine = long_mode(ram);
    let regs = &mut machine.regs;
    (regs.rax, regs.rbx, regs.rcx) = (inputs.rax, inputs.rbx, inputs.rcx);
    (regs.rdx, regs.r8, regs.rsi) = (inputs.rdx, inputs.r8, MEMORY);
    regs.rflags = inputs.rflags;
    let fpu = machine.fpu_mut().unwrap();
    fpu.set_xmm(0, inputs.xmm0);
    fpu.set_xmm(1, inputs.xmm1);

    let Ok(fetched) = fetch::decode(&machine, bytes) else {
        panic!("bytes {bytes:02x?} do not decode");
    };
    let flow = dispatch::execute(&mut machine, &fetched.decoded);
    assert_eq!(flow, Ok(Flow::Next), "bytes {bytes:02x?}");
    Inputs {
        memory: std::array::from_fn(|i| u128::from_le_bytes(ram.get(MEMORY + 16 * i as u64))),
        xmm0: machine.fpu().unwrap().xmm(0),
        xmm1: machine.fpu().unwrap().xmm(1),
        rax: machine.regs.rax,
        rbx: machine.regs.rbx,
        rcx: machine.regs.rcx,
        rdx: machine.regs.rdx,
        r8: machine.regs.r8,
        rflags: machine.regs.rflags,
    }
}

fn compare(instructions: &[(&str, OnCpu)]) {
    compare_all_but(0, instructions);
}

/// `undefined`: flags of which the SDM does not say what becomes of them.
fn compare_all_but(undefined: u64, instructions: &[(&str, OnCpu)]) {
    let ram = Ram::new(0x20_0000);
    identity_map(&ram);
    let mut random = Random::new();
    for (text, on_cpu) in instructions {
        for _ in 0..ROUNDS {
            let inputs = random.inputs();
            let mut expected = inputs;
            let bytes = on_cpu(&mut expected);
            let mut found = by_emulation(&ram, bytes, inputs);
            expected.rflags &= !undefined;
            found.rflags &= !undefined;
            assert_eq!(found, expected, "`{text}` of {inputs:#x?}");
        }
    }
}

#[test]
fn popcnt_and_cmpxchg16b_do_what_the_cpu_does() {
    compare(instructions! {
        "popcnt rax, rdx" "popcnt eax, edx" "popcnt ax, dx" "popcnt r8d, ecx"
        "popcnt rax, [rsi + 3]" "popcnt eax, dword ptr [rsi + 8]" "popcnt ax, word ptr [rsi + 1]"
        "cmpxchg16b [rsi]" "lock cmpxchg16b [rsi]" "lock cmpxchg16b [rsi + 16]"
    });
}

#[test]
fn bits_are_counted_and_moved_as_the_cpu_does_it() {
    assert!(
        std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt"),
        "this test compares with a CPU that has LZCNT, BMI1 and BMI2"
    );
    let undefined = flags::PF | flags::AF;
    compare_all_but(
        undefined | flags::OF | flags::SF,
        instructions! {
            "lzcnt rax, rdx" "lzcnt eax, ecx" "lzcnt ax, word ptr [rsi + 1]"
            "tzcnt rax, rdx" "tzcnt r8d, ecx" "tzcnt ax, dx"
            "bextr rax, rdx, rcx" "bextr eax, dword ptr [rsi + 3], ecx"
        },
    );
    compare_all_but(
        undefined,
        instructions! {
            "andn rax, rdx, rcx" "andn eax, ecx, dword ptr [rsi]" "bzhi rax, rdx, rcx" "bzhi r8d, edx, eax"
            "blsr rax, rdx" "blsr eax, [rsi]" "blsi rax, rdx" "blsi r8d, ecx" "blsmsk rax, rdx" "blsmsk eax, edx"
        },
    );
    compare(instructions! {
        "shlx rax, rdx, rcx" "shlx eax, edx, ecx" "shrx rax, [rsi], rcx" "shrx eax, edx, ecx"
        "sarx rax, rdx, rcx" "sarx r8d, edx, ecx" "rorx rax, rdx, 13" "rorx eax, edx, 31"
        "pdep rax, rdx, rcx" "pdep eax, edx, [rsi]" "pext rax, rdx, rcx" "pext r8d, ecx, eax"
    });
}

#[test]
fn sums_products_and_conversions_are_the_cpus() {
    assert!(
        std::arch::is_x86_feature_detected!("adx")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("movbe"),
        "this test compares with a CPU that has ADX, BMI2 and MOVBE"
    );
    compare(instructions! {
        "adcx rax, rdx" "adcx eax, [rsi + 4]" "adox rax, [rsi]" "adox r8d, ecx"
        "mulx rax, rcx, [rsi]" "mulx r8, r8, rax" "mulx eax, ecx, r8d"
        "movbe rax, [rsi + 1]" "movbe eax, [rsi]" "movbe ax, word ptr [rsi]" "movbe [rsi + 5], rdx"
        "crc32 rax, rdx" "crc32 rax, dl" "crc32 eax, dh" "crc32 eax, cx" "crc32 eax, dword ptr [rsi + 1]"
        "crc32 eax, byte ptr [rsi]"
    });
}

#[test]
fn moves_do_what_the_cpu_does() {
    compare(instructions! {
        "movaps xmm0, xmm1" "movaps xmm0, [rsi + 16]" "movaps [rsi + 16], xmm0"
        "movups xmm0, xmm1" "movups xmm0, [rsi + 5]" "movups [rsi + 5], xmm1"
        "movapd xmm0, xmm1" "movupd xmm0, [rsi + 5]"
        "movdqa xmm0, xmm1" "movdqa xmm0, [rsi + 32]" "movdqa [rsi + 32], xmm0"
        "movdqu xmm0, xmm1" "movdqu xmm0, [rsi + 7]" "movdqu [rsi + 7], xmm0"
        "movntdq [rsi], xmm1" "movntps [rsi], xmm1" "movntpd [rsi], xmm1"
        "movd xmm0, eax" "movd eax, xmm0" "movd xmm0, dword ptr [rsi + 3]" "movd dword ptr [rsi + 3], xmm0"
        "movq xmm0, rax" "movq r8, xmm1" "movq xmm0, xmm1"
        "movq xmm0, qword ptr [rsi + 9]" "movq qword ptr [rsi + 9], xmm0"
        "movss xmm0, xmm1" "movss xmm0, [rsi + 4]" "movss [rsi + 4], xmm0"
        "movsd xmm0, xmm1" "movsd xmm0, qword ptr [rsi + 4]" "movsd qword ptr [rsi + 4], xmm0"
        "movlps xmm0, [rsi + 8]" "movlps [rsi + 8], xmm0" "movlpd xmm0, [rsi + 8]" "movlpd [rsi + 8], xmm0"
        "movhps xmm0, [rsi + 8]" "movhps [rsi + 8], xmm0" "movhpd xmm0, [rsi + 8]" "movhpd [rsi + 8], xmm0"
        "movhlps xmm0, xmm1" "movlhps xmm0, xmm1"
        "pmovmskb eax, xmm0" "movmskps eax, xmm0" "movmskpd r8d, xmm1"
    });
}

#[test]
fn logic_does_what_the_cpu_does() {
    compare(instructions! {
        "pxor xmm0, xmm1" "pxor xmm0, xmm0" "pxor xmm0, [rsi + 16]" "xorps xmm0, xmm1" "xorpd xmm0, [rsi]"
        "por xmm0, xmm1" "orps xmm0, [rsi + 16]" "orpd xmm0, xmm1"
        "pand xmm0, xmm1" "andps xmm0, xmm1" "andpd xmm0, [rsi]"
        "pandn xmm0, xmm1" "andnps xmm0, [rsi]" "andnpd xmm0, xmm1"
    });
}

#[test]
fn arithmetic_does_what_the_cpu_does() {
    compare(instructions! {
        "paddb xmm0, xmm1" "paddw xmm0, xmm1" "paddd xmm0, [rsi]" "paddq xmm0, xmm1"
        "psubb xmm0, xmm1" "psubw xmm0, [rsi]" "psubd xmm0, xmm1" "psubq xmm0, xmm1"
        "paddsb xmm0, xmm1" "paddsw xmm0, xmm1" "paddusb xmm0, xmm1" "paddusw xmm0, xmm1"
        "psubsb xmm0, xmm1" "psubsw xmm0, xmm1" "psubusb xmm0, xmm1" "psubusw xmm0, xmm1"
        "pcmpeqb xmm0, xmm1" "pcmpeqw xmm0, xmm1" "pcmpeqd xmm0, [rsi]"
        "pcmpgtb xmm0, xmm1" "pcmpgtw xmm0, xmm1" "pcmpgtd xmm0, xmm1"
        "pminub xmm0, xmm1" "pmaxub xmm0, xmm1" "pminsw xmm0, xmm1" "pmaxsw xmm0, xmm1"
        "pavgb xmm0, xmm1" "pavgw xmm0, xmm1"
        "pmullw xmm0, xmm1" "pmulhw xmm0, xmm1" "pmulhuw xmm0, xmm1" "pmuludq xmm0, [rsi + 32]"
        "pmaddwd xmm0, xmm1" "psadbw xmm0, xmm1"
    });
}

#[test]
fn shuffles_do_what_the_cpu_does() {
    compare(instructions! {
        "punpcklbw xmm0, xmm1" "punpcklwd xmm0, xmm1" "punpckldq xmm0, [rsi]" "punpcklqdq xmm0, xmm1"
        "punpckhbw xmm0, xmm1" "punpckhwd xmm0, [rsi]" "punpckhdq xmm0, xmm1" "punpckhqdq xmm0, xmm1"
        "unpcklps xmm0, xmm1" "unpckhps xmm0, xmm1" "unpcklpd xmm0, xmm1" "unpckhpd xmm0, xmm1"
        "packsswb xmm0, xmm1" "packuswb xmm0, xmm1" "packssdw xmm0, xmm1"
        "pshufd xmm0, xmm1, 0x1b" "pshufd xmm0, [rsi + 16], 0x93" "pshuflw xmm0, xmm1, 0xb1"
        "pshufhw xmm0, xmm1, 0x4e" "shufps xmm0, xmm1, 0xd8" "shufpd xmm0, xmm1, 1" "shufpd xmm0, xmm1, 2"
    });
}

#[test]
fn shifts_do_what_the_cpu_does() {
    compare(instructions! {
        "psllw xmm0, 3" "psllw xmm0, 16" "pslld xmm0, 31" "pslld xmm0, 32" "psllq xmm0, 33" "psllq xmm0, 200"
        "psrlw xmm0, 15" "psrld xmm0, 1" "psrlq xmm0, 63" "psrlq xmm0, 64"
        "psraw xmm0, 7" "psraw xmm0, 99" "psrad xmm0, 31" "psrad xmm0, 32"
        "pslldq xmm0, 1" "pslldq xmm0, 16" "psrldq xmm0, 15" "psrldq xmm0, 0"
        "psllw xmm0, xmm1" "pslld xmm0, xmm1" "psllq xmm0, [rsi]" "psrlw xmm0, xmm1" "psrld xmm0, [rsi]"
        "psrlq xmm0, xmm1" "psraw xmm0, xmm1" "psrad xmm0, xmm1"
    });
}
