//! Operands of instructions: registers and memory.

use iced_x86::{Instruction, OpKind, Register};

use super::machine::{Cause, Exception, Machine, Stop};
use super::physical::{Access, Span};

impl<'a> Machine<'a> {
    /// Operand `op` of `instruction`, zero-extended: an XMM register, a general register, or memory.
    ///
    /// `aligned`: a memory operand of 16 bytes must be a multiple of 16, as legacy SSE wants it.
    pub(super) fn read(
        &self,
        instruction: &Instruction,
        op: u32,
        aligned: bool,
    ) -> Result<u128, Stop> {
        match instruction.op_kind(op) {
            OpKind::Register => self.read_register(instruction.op_register(op)),
            OpKind::Memory => {
                let len = instruction.memory_size().size();
                Ok(self
                    .memory_operand(instruction, op, len, aligned, Access::Read)?
                    .read())
            }
            _ => Err(Cause::Instruction.into()),
        }
    }

    /// Writes `value` to operand `op` of `instruction`: an XMM register (all 128 bits), a general register
    /// (a 32-bit one zero-extends), or memory (as many bytes as the operand has).
    pub(super) fn write(
        &mut self,
        instruction: &Instruction,
        op: u32,
        aligned: bool,
        value: u128,
    ) -> Result<(), Stop> {
        match instruction.op_kind(op) {
            OpKind::Register => self.write_register(instruction.op_register(op), value),
            OpKind::Memory => {
                let len = instruction.memory_size().size();
                self.memory_operand(instruction, op, len, aligned, Access::Write)?
                    .write(value);
                Ok(())
            }
            _ => Err(Cause::Instruction.into()),
        }
    }

    /// The `len` bytes of memory operand `op`.
    pub(super) fn memory_operand(
        &self,
        instruction: &Instruction,
        op: u32,
        len: usize,
        aligned: bool,
        access: Access,
    ) -> Result<Span<'a>, Stop> {
        if !(1..=16).contains(&len) {
            return Err(Cause::Instruction.into());
        }
        let address = self.address(instruction, op, len as u64)?;
        if aligned && len == 16 && !address.is_multiple_of(16) {
            return Err(Exception::protection().into());
        }
        self.span(address, len, access)
    }

    /// Where memory operand `op` of `instruction` begins, `len` bytes.
    ///
    /// `#SS(0)` if it is on the stack and not canonical; others are found out by their translation.
    pub(super) fn address(
        &self,
        instruction: &Instruction,
        op: u32,
        len: u64,
    ) -> Result<u64, Stop> {
        let address = instruction
            .virtual_address(op, 0, |register, _, _| self.address_part(register))
            .ok_or(Cause::Instruction)?;
        let last = address.wrapping_add(len - 1);
        let stack = instruction.memory_segment() == Register::SS;
        if stack && !(self.is_canonical(address) && self.is_canonical(last)) {
            return Err(Exception::stack().into());
        }
        Ok(address)
    }

    /// A register's share of an effective address; of a segment register, its base.
    fn address_part(&self, register: Register) -> Option<u64> {
        match register {
            Register::FS => Some(self.sregs.fs.base),
            Register::GS => Some(self.sregs.gs.base),
            // 64-bit mode ignores the other bases.
            Register::ES | Register::CS | Register::SS | Register::DS => Some(0),
            _ => self.general(register).map(|value| match register.size() {
                4 => value & 0xffff_ffff,
                _ => value,
            }),
        }
    }

    /// The 64-bit register that `register` is or is part of; `None` if it is not a general one.
    fn general(&self, register: Register) -> Option<u64> {
        let regs = &self.regs;
        Some(match register.full_register() {
            Register::RAX => regs.rax,
            Register::RCX => regs.rcx,
            Register::RDX => regs.rdx,
            Register::RBX => regs.rbx,
            Register::RSP => regs.rsp,
            Register::RBP => regs.rbp,
            Register::RSI => regs.rsi,
            Register::RDI => regs.rdi,
            Register::R8 => regs.r8,
            Register::R9 => regs.r9,
            Register::R10 => regs.r10,
            Register::R11 => regs.r11,
            Register::R12 => regs.r12,
            Register::R13 => regs.r13,
            Register::R14 => regs.r14,
            Register::R15 => regs.r15,
            _ => return None,
        })
    }

    fn general_mut(&mut self, register: Register) -> Option<&mut u64> {
        let regs = &mut self.regs;
        Some(match register.full_register() {
            Register::RAX => &mut regs.rax,
            Register::RCX => &mut regs.rcx,
            Register::RDX => &mut regs.rdx,
            Register::RBX => &mut regs.rbx,
            Register::RSP => &mut regs.rsp,
            Register::RBP => &mut regs.rbp,
            Register::RSI => &mut regs.rsi,
            Register::RDI => &mut regs.rdi,
            Register::R8 => &mut regs.r8,
            Register::R9 => &mut regs.r9,
            Register::R10 => &mut regs.r10,
            Register::R11 => &mut regs.r11,
            Register::R12 => &mut regs.r12,
            Register::R13 => &mut regs.r13,
            Register::R14 => &mut regs.r14,
            Register::R15 => &mut regs.r15,
            _ => return None,
        })
    }

    fn read_register(&self, register: Register) -> Result<u128, Stop> {
        if register.is_xmm() {
            return Ok(self.fpu()?.xmm(register.number()));
        }
        let value = self.general(register).ok_or(Cause::Instruction)?;
        let second_byte = matches!(
            register,
            Register::AH | Register::BH | Register::CH | Register::DH
        );
        Ok(u128::from(match register.size() {
            8 => value,
            4 => value & 0xffff_ffff,
            2 => value & 0xffff,
            1 if second_byte => value >> 8 & 0xff,
            1 => value & 0xff,
            _ => return Err(Cause::Instruction.into()),
        }))
    }

    fn write_register(&mut self, register: Register, value: u128) -> Result<(), Stop> {
        if register.is_xmm() {
            self.fpu_mut()?.set_xmm(register.number(), value);
            return Ok(());
        }
        let size = register.size();
        let held = self.general_mut(register).ok_or(Cause::Instruction)?;
        *held = match size {
            8 => value as u64,
            4 => value as u64 & 0xffff_ffff,
            2 => *held & !0xffff | value as u64 & 0xffff,
            // No instruction here writes a byte register.
            _ => return Err(Cause::Instruction.into()),
        };
        Ok(())
    }
}
