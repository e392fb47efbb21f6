//! General-purpose instructions.

use iced_x86::Instruction;

use super::machine::{Exception, Flow, Machine, Stop, flags};
use super::physical::Access;

/// `popcnt r, r/m`: counts bits; ZF says that there is none, the other arithmetic flags are cleared.
pub(super) fn popcnt(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let source = machine.read(instruction, 1, false)?;
    machine.write(instruction, 0, false, source.count_ones().into())?;
    let arithmetic = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF | flags::OF;
    machine.set_flags(arithmetic, if source == 0 { flags::ZF } else { 0 });
    Ok(Flow::Next)
}

/// `cmpxchg16b m128`, always atomic, with or without `lock`; only ZF changes.
pub(super) fn cmpxchg16b(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    // The CPU wants the page writable even if the comparison fails.
    let operand = machine.memory_operand(instruction, 0, 16, true, Access::Write)?;
    let regs = &mut machine.regs;
    let pair = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
    let expected = pair(regs.rdx, regs.rax);
    let found = operand.compare_exchange_16(expected, pair(regs.rcx, regs.rbx));
    if found == expected {
        machine.set_flags(flags::ZF, flags::ZF);
    } else {
        regs.rax = found as u64;
        regs.rdx = (found >> 64) as u64;
        machine.set_flags(flags::ZF, 0);
    }
    Ok(Flow::Next)
}

/// `stac` (`allow`) and `clac`: whether the supervisor may access user pages under SMAP.
pub(super) fn set_ac(machine: &mut Machine, allow: bool) -> Result<Flow, Stop> {
    if machine.cpl() != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    machine.set_flags(flags::AC, if allow { flags::AC } else { 0 });
    Ok(Flow::Next)
}
