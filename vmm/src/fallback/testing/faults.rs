//! What instructions raise, and that nothing of them has happened then.

use super::{Ram, identity_map, long_mode};
use crate::fallback::fpu::at;
use crate::fallback::machine::{Cause, Exception, Flow, Machine, Stop, control};
use crate::fallback::{dispatch, fetch};

const MOVUPS_LOAD: &[u8] = &[0x0f, 0x10, 0x06]; // movups xmm0, [rsi]
const MOVUPS_STORE: &[u8] = &[0x0f, 0x11, 0x06]; // movups [rsi], xmm0
const MOVAPS_LOAD: &[u8] = &[0x0f, 0x28, 0x06]; // movaps xmm0, [rsi]
const PXOR: &[u8] = &[0x66, 0x0f, 0xef, 0xc1]; // pxor xmm0, xmm1
const PXOR_LOAD: &[u8] = &[0x66, 0x0f, 0xef, 0x06]; // pxor xmm0, [rsi]
const CMPXCHG16B: &[u8] = &[0xf0, 0x48, 0x0f, 0xc7, 0x0e]; // lock cmpxchg16b [rsi]
const FWAIT: &[u8] = &[0x9b];
const FNCLEX: &[u8] = &[0xdb, 0xe2];
const EMMS: &[u8] = &[0x0f, 0x77];
const CLAC: &[u8] = &[0x0f, 0x01, 0xca];

fn ram() -> Ram {
    let ram = Ram::new(0x20_0000);
    identity_map(&ram);
    ram
}

fn execute(machine: &mut Machine, bytes: &[u8]) -> Result<Flow, Stop> {
    let fetched = fetch::decode(machine, bytes)?;
    dispatch::execute(machine, &fetched.decoded)
}

fn raises(exception: Exception) -> Result<Flow, Stop> {
    Err(exception.into())
}

#[test]
fn a_store_whose_second_page_faults_writes_nothing() {
    let ram = ram();
    ram.put(0xf_fff8, &[0xaa; 8]);
    ram.set_entry(0x4000 + 8 * 0x100, 0);
    let mut machine = long_mode(&ram);
    machine.regs.rsi = 0xf_fff8;
    machine.fpu_mut().unwrap().set_xmm(0, u128::MAX / 3);
    let expected = raises(Exception::page_fault(0x10_0000, 2));
    assert_eq!(execute(&mut machine, MOVUPS_STORE), expected);
    assert_eq!(ram.get(0xf_fff8), [0xaa; 8]);
}

#[test]
fn operands_that_cross_pages_are_read_and_written_whole() {
    let ram = ram();
    // Virtual page 0x100 is physical page 0x180.
    ram.set_entry(0x4000 + 8 * 0x100, 0x18_0007);
    let mut machine = long_mode(&ram);
    machine.regs.rsi = 0xf_fffb;
    machine
        .fpu_mut()
        .unwrap()
        .set_xmm(0, 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
    assert_eq!(execute(&mut machine, MOVUPS_STORE), Ok(Flow::Next));
    assert_eq!(ram.get(0xf_fffb), [0, 1, 2, 3, 4]);
    assert_eq!(ram.get(0x18_0000), [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    let stored = machine.fpu().unwrap().xmm(0);
    machine.fpu_mut().unwrap().set_xmm(0, 0);
    assert_eq!(execute(&mut machine, MOVUPS_LOAD), Ok(Flow::Next));
    assert_eq!(machine.fpu().unwrap().xmm(0), stored);
}

#[test]
fn operands_that_must_be_aligned_raise_protection() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine.regs.rsi = 0x10_0008;
    for bytes in [MOVAPS_LOAD, PXOR_LOAD, CMPXCHG16B] {
        let expected = raises(Exception::protection());
        assert_eq!(execute(&mut machine, bytes), expected, "{bytes:02x?}");
    }
}

#[test]
fn addresses_that_are_not_canonical_raise_protection_or_stack() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine.regs.rsi = 0x7fff_ffff_fff8;
    let expected = raises(Exception::protection());
    assert_eq!(execute(&mut machine, MOVUPS_LOAD), expected);
    machine.regs.rsp = 1 << 63;
    let from_stack = &[0x0f, 0x10, 0x04, 0x24]; // movups xmm0, [rsp]
    let expected = raises(Exception::stack());
    assert_eq!(execute(&mut machine, from_stack), expected);
}

#[test]
fn cmpxchg16b_wants_a_writable_page_even_if_it_does_not_write() {
    let ram = ram();
    ram.set_entry(0x4000 + 8 * 0x100, 0x10_0005);
    ram.put(0x10_0000, &[1]);
    let mut machine = long_mode(&ram);
    machine.regs.rsi = 0x10_0000;
    let expected = raises(Exception::page_fault(0x10_0000, 3));
    assert_eq!(execute(&mut machine, CMPXCHG16B), expected);
}

#[test]
fn sse_obeys_em_osfxsr_and_ts() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine.sregs.cr0 |= control::CR0_TS;
    let expected = raises(Exception::fpu_not_available());
    assert_eq!(execute(&mut machine, PXOR), expected);
    machine.sregs.cr0 |= control::CR0_EM;
    let expected = raises(Exception::invalid_opcode());
    assert_eq!(execute(&mut machine, PXOR), expected);
    machine.sregs.cr0 = 0x8005_0033;
    machine.sregs.cr4 &= !control::CR4_OSFXSR;
    assert_eq!(execute(&mut machine, PXOR), expected);
}

#[test]
fn a_pending_x87_error_is_reported_by_fwait_and_forgotten_by_fnclex() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine
        .fpu_mut()
        .unwrap()
        .set_x87(at::STATUS, &0xb8a1_u16.to_le_bytes());
    let expected = raises(Exception::x87_error());
    assert_eq!(execute(&mut machine, FWAIT), expected);
    assert_eq!(execute(&mut machine, EMMS), expected);
    assert_eq!(execute(&mut machine, FNCLEX), Ok(Flow::Next));
    assert_eq!(machine.fpu().unwrap().status(), 0x3800);
    assert_eq!(execute(&mut machine, FWAIT), Ok(Flow::Next));

    machine
        .fpu_mut()
        .unwrap()
        .set_x87(at::STATUS, &0x80_u16.to_le_bytes());
    machine.sregs.cr0 &= !control::CR0_NE;
    let expected = Err(Cause::X87Interrupt.into());
    assert_eq!(execute(&mut machine, FWAIT), expected);
}

#[test]
fn emms_empties_the_x87_registers() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    machine.fpu_mut().unwrap().set_x87(at::TAGS, &[0xff]);
    assert_eq!(execute(&mut machine, EMMS), Ok(Flow::Next));
    assert_eq!(machine.fpu().unwrap().tags(), 0);
}

#[test]
fn clac_is_the_supervisors() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    assert_eq!(execute(&mut machine, CLAC), Ok(Flow::Next));
    machine.sregs.ss.dpl = 3;
    let expected = raises(Exception::invalid_opcode());
    assert_eq!(execute(&mut machine, CLAC), expected);
}

#[test]
fn what_is_not_covered_says_so() {
    let ram = ram();
    let mut machine = long_mode(&ram);
    let not_covered = Err(Cause::Instruction.into());
    let mmx: &[u8] = &[0x0f, 0xef, 0xc1]; // pxor mm0, mm1
    let avx: &[u8] = &[0xc5, 0xf9, 0xef, 0xc1]; // vpxor xmm0, xmm0, xmm1
    let floating: &[u8] = &[0x0f, 0x58, 0xc1]; // addps xmm0, xmm1
    let string: &[u8] = &[0xa5]; // movsd, the string instruction
    for bytes in [mmx, avx, floating, string] {
        assert_eq!(execute(&mut machine, bytes), not_covered, "{bytes:02x?}");
    }
    machine.sregs.cs.l = 0;
    assert_eq!(execute(&mut machine, PXOR), Err(Cause::Mode.into()));
}

#[test]
fn bytes_that_are_missing_are_fetched_across_a_page_boundary() {
    let ram = ram();
    ram.set_entry(0x4000 + 8 * 0x100, 0x18_0007);
    ram.put(0xf_fffe, &PXOR[..2]);
    ram.put(0x18_0000, &PXOR[2..]);
    let mut machine = long_mode(&ram);
    machine.regs.rip = 0xf_fffe;
    machine.fpu_mut().unwrap().set_xmm(0, 5);
    machine.fpu_mut().unwrap().set_xmm(1, 3);
    assert_eq!(execute(&mut machine, &PXOR[..2]), Ok(Flow::Next));
    assert_eq!(machine.fpu().unwrap().xmm(0), 6);

    ram.set_entry(0x4000 + 8 * 0x100, 0);
    let expected = raises(Exception::page_fault(0x10_0000, 0x10));
    assert_eq!(execute(&mut machine, &[]), expected);
    // An instruction that ends before that page is not touched by it.
    machine.regs.rip = 0xf_fffd;
    ram.put(0xf_fffd, CLAC);
    assert_eq!(execute(&mut machine, &[]), Ok(Flow::Next));
}
