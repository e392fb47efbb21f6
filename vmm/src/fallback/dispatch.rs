//! From an instruction to the code that does it.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::machine::{Exception, Flow, Machine, Stop};
use super::{integer, sse, x87};

/// Whether `instruction` needs [`Machine::fpu`].
pub(super) fn uses_fpu(instruction: &Instruction) -> bool {
    use Mnemonic::{Emms, Fnclex, Wait};
    matches!(instruction.mnemonic(), Wait | Fnclex | Emms)
        || (0..instruction.op_count()).any(|op| {
            instruction.op_kind(op) == OpKind::Register && instruction.op_register(op).is_xmm()
        })
}

/// Does `instruction`. On `Err` guest memory is as it was; `machine` may not be, and is to be dropped.
pub(super) fn execute(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    match instruction.mnemonic() {
        Mnemonic::Int3 => Ok(Flow::Trap(Exception::BREAKPOINT)),
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 => Err(Exception::invalid_opcode().into()),
        Mnemonic::Stac => integer::set_ac(machine, true),
        Mnemonic::Clac => integer::set_ac(machine, false),
        Mnemonic::Popcnt => integer::popcnt(machine, instruction),
        Mnemonic::Cmpxchg16b => integer::cmpxchg16b(machine, instruction),
        Mnemonic::Wait => x87::fwait(machine),
        Mnemonic::Fnclex => x87::fnclex(machine),
        Mnemonic::Emms => x87::emms(machine),
        _ => sse::execute(machine, instruction),
    }
}
