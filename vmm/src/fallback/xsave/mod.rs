//! XSAVE, XRSTOR and their variants: extended state to and from memory.
//!
//! Intel SDM volume 1, chapter 13. A kernel does one of each at almost every switch between tasks and at
//! every signal.

mod layout;
mod restore;
mod save;

pub(super) use layout::Layout;
pub(super) use restore::{read_x87, restore};
pub(super) use save::{save, x87_head};

use super::machine::{Cause, Exception, Flow, Machine, Stop, control};

/// Bytes at whose multiples a save area begins.
const ALIGNMENT: u64 = 64;
/// IA32_XSS: supervisor components that XSAVES and XRSTORS handle.
const MSR_XSS: u32 = 0xda0;
/// XCOMP_BV: the area is in the compacted format.
const COMPACTED: u64 = 1 << 63;

/// Which variant an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// XSAVE, XRSTOR.
    Plain,
    /// XSAVEOPT.
    Optimised,
    /// XSAVEC.
    Compacted,
    /// XSAVES, XRSTORS.
    Supervisor,
}

/// What an instruction is to handle.
struct Components {
    /// What EDX:EAX asks for and XCR0 allows.
    requested: u64,
    /// XCR0.
    allowed: u64,
}

/// Raises what these instructions raise before they look at their operands.
fn components(machine: &Machine, form: Form, layout: &Layout) -> Result<Components, Stop> {
    available(machine)?;
    if form == Form::Supervisor {
        if machine.cpl() != 0 {
            return Err(Exception::protection().into());
        }
        // KVM_GET_XSAVE does not have supervisor components.
        if machine.processor.msrs(&[MSR_XSS])? != [0] {
            return Err(Cause::Instruction.into());
        }
    }
    let allowed = machine.processor.xcr0()?;
    let regs = &machine.regs;
    let requested = (regs.rdx << 32 | regs.rax & 0xffff_ffff) & allowed;
    if requested & !layout.all() != 0 {
        return Err(Cause::Instruction.into());
    }
    Ok(Components { requested, allowed })
}

fn available(machine: &Machine) -> Result<(), Stop> {
    if machine.sregs.cr4 & control::CR4_OSXSAVE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    if machine.sregs.cr0 & control::CR0_TS != 0 {
        return Err(Exception::fpu_not_available().into());
    }
    Ok(())
}

/// `xgetbv`: XCR0 to EDX:EAX, or with ECX = 1 what of it is in use.
pub(super) fn xgetbv(machine: &mut Machine) -> Result<Flow, Stop> {
    if machine.sregs.cr4 & control::CR4_OSXSAVE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    let value = match machine.regs.rcx as u32 {
        0 => machine.processor.xcr0()?,
        1 => machine.processor.xcr0()? & machine.fpu()?.components(),
        _ => return Err(Exception::protection().into()),
    };
    machine.regs.rax = value & 0xffff_ffff;
    machine.regs.rdx = value >> 32;
    Ok(Flow::Next)
}

/// `xsetbv`: EDX:EAX to XCR0.
pub(super) fn xsetbv(machine: &mut Machine) -> Result<Flow, Stop> {
    if machine.sregs.cr4 & control::CR4_OSXSAVE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    let regs = &machine.regs;
    if machine.cpl() != 0 || regs.rcx as u32 != 0 {
        return Err(Exception::protection().into());
    }
    let value = regs.rdx << 32 | regs.rax & 0xffff_ffff;
    machine.processor.set_xcr0(value)?;
    Ok(Flow::Next)
}
