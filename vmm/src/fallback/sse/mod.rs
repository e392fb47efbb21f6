//! SSE and SSE2 instructions on XMM registers: moves and integer arithmetic, in their legacy encoding.
//!
//! What they compute are functions of 128-bit values ([`packed`], [`shift`], [`shuffle`]); operands,
//! alignment and exceptions are handled here and in [`moves`].

mod moves;
mod packed;
mod shift;
mod shuffle;

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::machine::{Cause, Exception, Flow, Machine, Stop, control};

/// What an instruction does.
enum Operation {
    /// Copies an operand to the other.
    Move(moves::Move),
    /// `xmm = f(xmm, xmm/m128)`.
    Combine(fn(u128, u128) -> u128),
    /// `xmm = f(xmm, count)`, the count an immediate or the low half of `xmm/m128`.
    Shift(fn(u128, u64) -> u128),
    /// `xmm = f(xmm, xmm/m128, imm8)`.
    Shuffle(fn(u128, u128, u8) -> u128),
    /// `r = f(xmm)`.
    Mask(fn(u128) -> u32),
}

/// Does `instruction`, or raises what the CPU would.
pub(super) fn execute(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let operation = operation(instruction.mnemonic()).ok_or(Cause::Instruction)?;
    if uses_mmx(instruction) {
        return Err(Cause::Instruction.into());
    }
    available(machine)?;
    match operation {
        Operation::Move(kind) => moves::execute(machine, instruction, kind)?,
        Operation::Combine(combine) => {
            let source = machine.read(instruction, 1, true)?;
            let target = machine.read(instruction, 0, true)?;
            machine.write(instruction, 0, true, combine(target, source))?;
        }
        Operation::Shift(shift) => {
            let count = match instruction.op_kind(1) {
                OpKind::Immediate8 => instruction.immediate8().into(),
                _ => machine.read(instruction, 1, true)? as u64,
            };
            let target = machine.read(instruction, 0, true)?;
            machine.write(instruction, 0, true, shift(target, count))?;
        }
        Operation::Shuffle(shuffle) => {
            let source = machine.read(instruction, 1, true)?;
            let target = machine.read(instruction, 0, true)?;
            let result = shuffle(target, source, instruction.immediate8());
            machine.write(instruction, 0, true, result)?;
        }
        Operation::Mask(mask) => {
            let source = machine.read(instruction, 1, true)?;
            machine.write(instruction, 0, true, mask(source).into())?;
        }
    }
    Ok(Flow::Next)
}

fn operation(mnemonic: Mnemonic) -> Option<Operation> {
    moves::find(mnemonic)
        .map(Operation::Move)
        .or_else(|| packed::find(mnemonic).map(Operation::Combine))
        .or_else(|| shift::find(mnemonic).map(Operation::Shift))
        .or_else(|| shuffle::find(mnemonic).map(Operation::Shuffle))
        .or_else(|| shuffle::find_mask(mnemonic).map(Operation::Mask))
}

fn uses_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register && instruction.op_register(op).is_mm()
    })
}

/// Raises what SSE instructions raise if SSE is not there.
pub(super) fn available(machine: &Machine) -> Result<(), Stop> {
    let sregs = &machine.sregs;
    if sregs.cr0 & control::CR0_EM != 0 || sregs.cr4 & control::CR4_OSFXSR == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    if sregs.cr0 & control::CR0_TS != 0 {
        return Err(Exception::fpu_not_available().into());
    }
    Ok(())
}
