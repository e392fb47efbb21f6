//! Moves between XMM registers, general registers and memory.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::fallback::machine::{Machine, Stop};

const LOW: u128 = u64::MAX as u128;

/// What a move copies.
#[derive(Clone, Copy)]
pub(super) enum Move {
    /// 16 bytes.
    Whole {
        /// A memory operand must be a multiple of 16.
        aligned: bool,
    },
    /// The low bytes, so many; an XMM register is zeroed above them.
    Low(u32),
    /// The low bytes, so many; from register to register the others stay.
    Scalar(u32),
    /// The low half; the high half stays.
    LowHalf,
    /// The high half of the register; the low half stays.
    HighHalf,
    /// `movhlps`: the high half to the low half.
    HighToLow,
    /// `movlhps`: the low half to the high half.
    LowToHigh,
}

/// How `mnemonic` moves, if it does.
pub(super) fn find(mnemonic: Mnemonic) -> Option<Move> {
    use Mnemonic::*;
    Some(match mnemonic {
        Movaps | Movapd | Movdqa | Movntps | Movntpd | Movntdq => Move::Whole { aligned: true },
        Movups | Movupd | Movdqu | Lddqu => Move::Whole { aligned: false },
        Movd => Move::Low(4),
        Movq => Move::Low(8),
        Movss => Move::Scalar(4),
        Movsd => Move::Scalar(8),
        Movlps | Movlpd => Move::LowHalf,
        Movhps | Movhpd => Move::HighHalf,
        Movhlps => Move::HighToLow,
        Movlhps => Move::LowToHigh,
        _ => return None,
    })
}

/// Copies operand 1 to operand 0.
pub(super) fn execute(
    machine: &mut Machine,
    instruction: &Instruction,
    kind: Move,
) -> Result<(), Stop> {
    let aligned = matches!(kind, Move::Whole { aligned: true });
    let is_register = |op| instruction.op_kind(op) == OpKind::Register;
    let source = machine.read(instruction, 1, aligned)?;
    // What stays of the target, if the target is a register.
    let target = |machine: &Machine| match is_register(0) {
        true => machine.read(instruction, 0, aligned),
        false => Ok(0),
    };
    let value = match kind {
        Move::Whole { .. } => source,
        Move::Low(bytes) => source & low(bytes),
        Move::Scalar(bytes) if is_register(0) && is_register(1) => {
            target(machine)? & !low(bytes) | source & low(bytes)
        }
        Move::Scalar(bytes) => source & low(bytes),
        Move::LowHalf => target(machine)? & !LOW | source & LOW,
        Move::HighHalf if is_register(0) => target(machine)? & LOW | source << 64,
        Move::HighHalf => source >> 64,
        Move::HighToLow => target(machine)? & !LOW | source >> 64,
        Move::LowToHigh => target(machine)? & LOW | source << 64,
    };
    machine.write(instruction, 0, aligned, value)
}

fn low(bytes: u32) -> u128 {
    u128::MAX >> (128 - 8 * bytes)
}
