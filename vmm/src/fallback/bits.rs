//! Instructions that count, extract and move bits of general registers: LZCNT, BMI1 and BMI2.
//!
//! Flags that the SDM leaves undefined stay as they were.

use iced_x86::{Instruction, Mnemonic};

use super::integer::operand_bits;
use super::machine::{Flow, Machine, Stop, flags};

/// What an instruction does.
enum Operation {
    /// `r = f(r/m)`; CF says whether the source is zero, or with `true` whether it is not.
    Lowest(fn(u64) -> u64, bool),
    /// `r = f(r/m, bits)`; CF says whether the source is zero.
    Count(fn(u64, u32) -> u64),
    /// `r = f(first, second, bits)`, without flags.
    Pure(fn(u64, u64, u32) -> u64),
    /// `andn r, r, r/m`.
    AndNot,
    /// `bextr r, r/m, r`.
    Extract,
    /// `bzhi r, r/m, r`.
    ZeroHigh,
}

fn operation(mnemonic: Mnemonic) -> Option<Operation> {
    use Mnemonic::*;
    Some(match mnemonic {
        Lzcnt => Operation::Count(|v, bits| u64::from(v.leading_zeros() - (64 - bits))),
        Tzcnt => Operation::Count(|v, bits| u64::from(v.trailing_zeros().min(bits))),
        Blsr => Operation::Lowest(|v| v & v.wrapping_sub(1), false),
        Blsmsk => Operation::Lowest(|v| v ^ v.wrapping_sub(1), false),
        Blsi => Operation::Lowest(|v| v & v.wrapping_neg(), true),
        Andn => Operation::AndNot,
        Bextr => Operation::Extract,
        Bzhi => Operation::ZeroHigh,
        Shlx => Operation::Pure(|v, n, bits| v << (n & u64::from(bits - 1))),
        Shrx => Operation::Pure(|v, n, bits| v >> (n & u64::from(bits - 1))),
        Sarx => Operation::Pure(|v, n, bits| {
            let unused = 64 - bits;
            ((v << unused) as i64 >> unused >> (n & u64::from(bits - 1))) as u64
        }),
        Rorx => Operation::Pure(|v, n, bits| match bits {
            32 => u64::from((v as u32).rotate_right(n as u32)),
            _ => v.rotate_right(n as u32),
        }),
        Pdep => Operation::Pure(|v, mask, _| deposit(v, mask)),
        Pext => Operation::Pure(|v, mask, _| extract(v, mask)),
        _ => return None,
    })
}

/// Does `instruction` if it is one of these.
pub(super) fn execute(
    machine: &mut Machine,
    instruction: &Instruction,
) -> Option<Result<Flow, Stop>> {
    let operation = operation(instruction.mnemonic())?;
    Some(perform(machine, instruction, operation))
}

fn perform(
    machine: &mut Machine,
    instruction: &Instruction,
    operation: Operation,
) -> Result<Flow, Stop> {
    let bits = operand_bits(instruction);
    let first = machine.read(instruction, 1, false)? as u64;
    // Operand 2: a register, memory, an immediate; or there is none.
    let second = |machine: &Machine| match instruction.mnemonic() {
        Mnemonic::Rorx => Ok(instruction.immediate8().into()),
        _ => machine
            .read(instruction, 2, false)
            .map(|value| value as u64),
    };
    use flags::{CF, OF, SF, ZF};
    let (result, affected, carry) = match operation {
        Operation::Count(count) => (count(first, bits), CF | ZF, first == 0),
        Operation::Lowest(lowest, if_set) => {
            let all = CF | ZF | SF | OF;
            (lowest(first), all, (first != 0) == if_set)
        }
        Operation::Pure(function) => (function(first, second(machine)?, bits), 0, false),
        Operation::AndNot => (!first & second(machine)?, CF | ZF | SF | OF, false),
        Operation::Extract => {
            let range = second(machine)?;
            let (start, len) = (range as u8, (range >> 8) as u8);
            let shifted = first.checked_shr(start.into()).unwrap_or(0);
            (shifted & low_bits(len), CF | ZF | OF, false)
        }
        Operation::ZeroHigh => {
            let from = second(machine)? as u8;
            let all = CF | ZF | SF | OF;
            (first & low_bits(from), all, u32::from(from) >= bits)
        }
    };
    let result = result & u64::MAX >> (64 - bits);
    machine.write(instruction, 0, false, result.into())?;
    let mut set = 0;
    for (flag, holds) in [
        (CF, carry),
        (ZF, result == 0),
        (SF, result >> (bits - 1) != 0),
    ] {
        if holds {
            set |= flag;
        }
    }
    machine.set_flags(affected, set & affected);
    Ok(Flow::Next)
}

/// A mask of the `count` lowest bits, all if there are not so many.
fn low_bits(count: u8) -> u64 {
    1_u64.checked_shl(count.into()).unwrap_or(0).wrapping_sub(1)
}

/// The low bits of `v`, in turn, to where `mask` has bits.
fn deposit(v: u64, mut mask: u64) -> u64 {
    let (mut result, mut i) = (0, 0);
    while mask != 0 {
        result |= (v >> i & 1) << mask.trailing_zeros();
        mask &= mask - 1;
        i += 1;
    }
    result
}

/// The bits of `v` where `mask` has bits, together at the low end.
fn extract(v: u64, mut mask: u64) -> u64 {
    let (mut result, mut i) = (0, 0);
    while mask != 0 {
        result |= (v >> mask.trailing_zeros() & 1) << i;
        mask &= mask - 1;
        i += 1;
    }
    result
}
