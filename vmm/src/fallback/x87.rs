//! The x87 instructions that kernels use to check, set and clean the FPU.
//!
//! Intel SDM volume 1, chapter 8.

use iced_x86::Instruction;

use super::fpu::{Fpu, INITIAL_CONTROL, at};
use super::machine::{Cause, Exception, Flow, Machine, Stop, control};

/// Bits of the status word.
mod status {
    /// An operand was invalid.
    pub const INVALID: u16 = 1 << 0;
    /// A register was empty, or with `C1` full.
    pub const STACK_FAULT: u16 = 1 << 6;
    /// The six exceptions, which the control word masks by the same bits.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// An unmasked error is pending.
    pub const ERROR_SUMMARY: u16 = 1 << 7;
    /// Condition code 1.
    pub const C1: u16 = 1 << 9;
    /// First bit of the three that number the register ST(0).
    pub const TOP_SHIFT: u16 = 11;
    /// Those three.
    pub const TOP: u16 = 7 << TOP_SHIFT;
    /// A copy of `ERROR_SUMMARY`.
    pub const BUSY: u16 = 1 << 15;
}

/// What `fnclex` clears.
const ERRORS: u16 = status::EXCEPTIONS | status::STACK_FAULT | status::ERROR_SUMMARY | status::BUSY;
/// The quiet NaN that stands for no number.
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// Raises what x87 instructions raise if the FPU is not there.
pub(super) fn available(machine: &Machine) -> Result<(), Stop> {
    match machine.sregs.cr0 & (control::CR0_EM | control::CR0_TS) {
        0 => Ok(()),
        _ => Err(Exception::fpu_not_available().into()),
    }
}

/// `fwait`: reports a pending x87 error.
pub(super) fn fwait(machine: &mut Machine) -> Result<Flow, Stop> {
    let monitored = control::CR0_MP | control::CR0_TS;
    if machine.sregs.cr0 & monitored == monitored {
        return Err(Exception::fpu_not_available().into());
    }
    report_pending(machine)?;
    Ok(Flow::Next)
}

/// `fnclex`: forgets x87 errors.
pub(super) fn fnclex(machine: &mut Machine) -> Result<Flow, Stop> {
    available(machine)?;
    let status = machine.fpu()?.status() & !ERRORS;
    set_status(machine, status)?;
    Ok(Flow::Next)
}

/// `fninit`: the initial state; what the registers hold stays there, unused.
pub(super) fn fninit(machine: &mut Machine) -> Result<Flow, Stop> {
    available(machine)?;
    let mut head = [0; at::X87_HEAD.end];
    head[..2].copy_from_slice(&INITIAL_CONTROL.to_le_bytes());
    let fpu = machine.fpu_mut()?;
    reset_top(fpu);
    fpu.set_x87(at::X87_HEAD.start, &head);
    Ok(Flow::Next)
}

/// `emms`: marks all x87 registers empty.
pub(super) fn emms(machine: &mut Machine) -> Result<Flow, Stop> {
    if machine.sregs.cr0 & control::CR0_EM != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    available(machine)?;
    report_pending(machine)?;
    let fpu = machine.fpu_mut()?;
    reset_top(fpu);
    fpu.set_x87(at::TAGS, &[0]);
    Ok(Flow::Next)
}

/// `fnstcw m16`: the control word.
pub(super) fn fnstcw(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    available(machine)?;
    let control = machine.fpu()?.control();
    machine.write(instruction, 0, false, control.into())?;
    Ok(Flow::Next)
}

/// `fnstsw m16` and `fnstsw ax`: the status word.
pub(super) fn fnstsw(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    available(machine)?;
    let status = machine.fpu()?.status();
    machine.write(instruction, 0, false, status.into())?;
    Ok(Flow::Next)
}

/// `fldcw m16`: sets the control word, by which errors that are noted may become pending.
pub(super) fn fldcw(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    available(machine)?;
    report_pending(machine)?;
    let control = machine.read(instruction, 0, false)? as u16;
    // The only reserved bit that processors do not clear is always set.
    let control = control & 0x1f3f | 0x40;
    machine
        .fpu_mut()?
        .set_x87(at::CONTROL, &control.to_le_bytes());
    let status = machine.fpu()?.status();
    set_status(machine, status)?;
    Ok(Flow::Next)
}

/// `fild m16`, `m32`, `m64`: pushes a signed integer.
pub(super) fn fild(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    available(machine)?;
    report_pending(machine)?;
    let len = instruction.memory_size().size();
    let unused = 128 - 8 * len as u32;
    let operand = machine.read(instruction, 0, false)?;
    let value = (operand << unused) as i128 >> unused;

    let fpu = machine.fpu_mut()?;
    let (mut status, mut tags) = (fpu.status() & !status::C1, fpu.tags());
    let top = (status >> status::TOP_SHIFT).wrapping_sub(1) & 7;
    let full = tags >> top & 1 != 0;
    if full {
        status |= status::INVALID | status::STACK_FAULT | status::C1;
    }
    let masked = fpu.control() & status::INVALID != 0;
    if masked || !full {
        let mut registers = [0; 128];
        registers.copy_from_slice(&fpu.bytes()[at::X87_REGISTERS]);
        registers.rotate_right(16);
        let pushed = if full { INDEFINITE } else { extended(value) };
        registers[..16].copy_from_slice(&pushed.to_le_bytes());
        fpu.set_x87(at::X87_REGISTERS.start, &registers);
        status = status & !status::TOP | top << status::TOP_SHIFT;
        tags |= 1 << top;
    }
    fpu.set_x87(at::TAGS, &[tags]);
    set_status(machine, status)?;
    Ok(Flow::Next)
}

/// Makes ST(0) the first register.
fn reset_top(fpu: &mut Fpu) {
    let status = fpu.status();
    let top = usize::from(status >> status::TOP_SHIFT & 7);
    // The area has the registers from ST(0) on.
    let mut registers = [0; 128];
    registers.copy_from_slice(&fpu.bytes()[at::X87_REGISTERS]);
    registers.rotate_right(16 * top);
    fpu.set_x87(at::X87_REGISTERS.start, &registers);
    fpu.set_x87(at::STATUS, &(status & !status::TOP).to_le_bytes());
}

/// An integer of at most 64 bits in the 80-bit format, which holds each exactly.
fn extended(value: i128) -> u128 {
    let magnitude = value.unsigned_abs() as u64;
    if magnitude == 0 {
        return 0;
    }
    let zeros = magnitude.leading_zeros();
    let exponent = u128::from(0x3fff + 63 - zeros);
    let sign = u128::from(value < 0);
    sign << 79 | exponent << 64 | u128::from(magnitude << zeros)
}

/// Sets the status word, in which two bits say whether one of its exceptions is unmasked.
fn set_status(machine: &mut Machine, status: u16) -> Result<(), Stop> {
    let fpu = machine.fpu_mut()?;
    let pending = status & !fpu.control() & status::EXCEPTIONS != 0;
    let summary = status::ERROR_SUMMARY | status::BUSY;
    let status = match pending {
        true => status | summary,
        false => status & !summary,
    };
    fpu.set_x87(at::STATUS, &status.to_le_bytes());
    Ok(())
}

fn report_pending(machine: &Machine) -> Result<(), Stop> {
    if machine.fpu()?.status() & status::ERROR_SUMMARY == 0 {
        return Ok(());
    }
    match machine.sregs.cr0 & control::CR0_NE {
        0 => Err(Cause::X87Interrupt.into()),
        _ => Err(Exception::x87_error().into()),
    }
}
