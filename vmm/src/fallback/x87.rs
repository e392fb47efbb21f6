//! The x87 instructions that kernels use to check and clean the FPU.

use super::machine::{Cause, Exception, Flow, Machine, Stop, control};

/// Status word: an unmasked error is pending.
const ERROR_SUMMARY: u16 = 1 << 7;
/// Status word: error flags, their summary and the busy bit, which `fnclex` clears.
const ERRORS: u16 = 0x80ff;

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
    if machine.sregs.cr0 & (control::CR0_EM | control::CR0_TS) != 0 {
        return Err(Exception::fpu_not_available().into());
    }
    machine.fpu.status &= !ERRORS;
    Ok(Flow::Next)
}

/// `emms`: marks all x87 registers empty.
pub(super) fn emms(machine: &mut Machine) -> Result<Flow, Stop> {
    if machine.sregs.cr0 & control::CR0_EM != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    if machine.sregs.cr0 & control::CR0_TS != 0 {
        return Err(Exception::fpu_not_available().into());
    }
    report_pending(machine)?;
    machine.fpu.tags = 0;
    Ok(Flow::Next)
}

fn report_pending(machine: &Machine) -> Result<(), Stop> {
    if machine.fpu.status & ERROR_SUMMARY == 0 {
        return Ok(());
    }
    match machine.sregs.cr0 & control::CR0_NE {
        0 => Err(Cause::X87Interrupt.into()),
        _ => Err(Exception::x87_error().into()),
    }
}
