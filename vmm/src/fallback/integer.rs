//! Instructions on general registers that add, compare, convert and count.

use iced_x86::{Instruction, OpKind};

use super::machine::{Flow, Machine, Stop, flags};
use super::physical::Access;

/// `popcnt r, r/m`: counts bits; ZF says that there is none, the other arithmetic flags are cleared.
pub(super) fn popcnt(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let source = machine.read(instruction, 1, false)?;
    machine.write(instruction, 0, false, source.count_ones().into())?;
    machine.set_flags(flags::ARITHMETIC, if source == 0 { flags::ZF } else { 0 });
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

/// `adcx` (`carry` is CF) and `adox` (OF): adds with that one carry.
pub(super) fn add_with(
    machine: &mut Machine,
    instruction: &Instruction,
    carry: u64,
) -> Result<Flow, Stop> {
    let bits = operand_bits(instruction);
    let carried = u128::from(machine.regs.rflags & carry != 0);
    let sum = machine.read(instruction, 0, false)? + machine.read(instruction, 1, false)? + carried;
    machine.write(instruction, 0, false, sum)?;
    machine.set_flags(carry, if sum >> bits != 0 { carry } else { 0 });
    Ok(Flow::Next)
}

/// `mulx r, r, r/m`: RDX times operand 2; the low half to operand 1, then the high one to operand 0.
pub(super) fn mulx(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let bits = operand_bits(instruction);
    let mask = u128::MAX >> (128 - bits);
    let factor = u128::from(machine.regs.rdx) & mask;
    let product = factor * machine.read(instruction, 2, false)?;
    machine.write(instruction, 1, false, product & mask)?;
    machine.write(instruction, 0, false, product >> bits)?;
    Ok(Flow::Next)
}

/// `movbe`: a move that turns the order of bytes.
pub(super) fn movbe(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let bits = operand_bits(instruction);
    let value = machine.read(instruction, 1, false)?;
    machine.write(instruction, 0, false, value.swap_bytes() >> (128 - bits))?;
    Ok(Flow::Next)
}

/// `crc32 r, r/m`: adds operand 1 to a CRC-32C.
pub(super) fn crc32(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    /// The polynomial, its bits reversed.
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    let source = machine.read(instruction, 1, false)?;
    let len = match instruction.op_kind(1) {
        OpKind::Register => instruction.op_register(1).size(),
        _ => instruction.memory_size().size(),
    };
    let mut crc = machine.read(instruction, 0, false)? as u32;
    for byte in source.to_le_bytes().into_iter().take(len) {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { CASTAGNOLI } else { 0 };
        }
    }
    machine.write(instruction, 0, false, crc.into())?;
    Ok(Flow::Next)
}

/// `rdrand` and `rdseed`: random bits, and CF for success.
pub(super) fn random(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is writable for the length that is given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    let success = got == bytes.len() as isize;
    let value = if success {
        u64::from_le_bytes(bytes)
    } else {
        0
    };
    machine.write(instruction, 0, false, value.into())?;
    machine.set_flags(flags::ARITHMETIC, if success { flags::CF } else { 0 });
    Ok(Flow::Next)
}

/// Bits of register or memory operand 0, or of the other one if that is memory: they are the same.
pub(super) fn operand_bits(instruction: &Instruction) -> u32 {
    let size = match instruction.op_kind(0) {
        OpKind::Register => instruction.op_register(0).size(),
        _ => instruction.memory_size().size(),
    };
    // An operand here has 2, 4 or 8 bytes; 8 for those that do not come here.
    8 * size.clamp(1, 8) as u32
}
