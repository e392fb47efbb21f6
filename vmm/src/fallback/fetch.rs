//! From an exit to a decoded instruction.

use std::fmt;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use kvm_bindings::{
    KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_run,
};

use super::machine::{Cause, Exception, Machine, Stop};
use super::physical::Access;

/// Bytes of the longest x86 instruction.
const MAX_LEN: usize = 15;

/// The first bytes of an instruction, at most 15. Displayed in hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct InstructionBytes {
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl InstructionBytes {
    /// The first 15 of `bytes`.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(MAX_LEN);
        let mut held = [0; MAX_LEN];
        held[..len].copy_from_slice(&bytes[..len]);
        Self {
            bytes: held,
            len: len as u8,
        }
    }
}

impl std::ops::Deref for InstructionBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("unknown");
        }
        for (i, byte) in self.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for InstructionBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// The bytes of the instruction that KVM could not emulate, empty if KVM does not give them; `None` if
/// the vCPU's last exit is a different one.
pub fn failed_instruction(run: &kvm_run) -> Option<InstructionBytes> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason selects this member of the union, and every bit pattern is valid for it.
    let failure = unsafe { run.__bindgen_anon_1.emulation_failure };
    if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return None;
    }
    // `ndata` counts the 64-bit words that follow: the flags, then one with the length and 15 bytes in two.
    let has_bytes = failure.ndata >= 3
        && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if !has_bytes {
        return Some(InstructionBytes::default());
    }
    // SAFETY: as above; the flag says that the bytes are there.
    let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
    let len = usize::from(instruction.insn_size).min(MAX_LEN);
    Some(InstructionBytes::new(&instruction.insn_bytes[..len]))
}

/// An instruction and the bytes that it was decoded from.
pub(super) struct Fetched {
    /// The instruction; its IP is the guest's RIP.
    pub decoded: Instruction,
    /// Its bytes, no more.
    pub bytes: InstructionBytes,
}

/// Decodes the instruction before which `machine` stands, from `given` or, if that is not all of it, from
/// guest memory.
pub(super) fn decode(machine: &Machine, given: &[u8]) -> Result<Fetched, Stop> {
    if !machine.in_64_bit_code() {
        return Err(Cause::Mode.into());
    }
    if let Some(fetched) = decode_bytes(machine, given)? {
        return Ok(fetched);
    }
    // One byte at a time, so that only a page which the instruction reaches can fault.
    let mut bytes = [0; MAX_LEN];
    for len in 1..=MAX_LEN {
        let at = machine.regs.rip.wrapping_add(len as u64 - 1);
        bytes[len - 1] = machine.span(at, 1, Access::Execute)?.read() as u8;
        if let Some(fetched) = decode_bytes(machine, &bytes[..len])? {
            return Ok(fetched);
        }
    }
    Err(Exception::protection().into())
}

/// Decodes the instruction at the start of `bytes`; `None` if it is longer than they are.
fn decode_bytes(machine: &Machine, bytes: &[u8]) -> Result<Option<Fetched>, Stop> {
    let mut decoder = Decoder::with_ip(64, bytes, machine.regs.rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(Some(Fetched {
            bytes: InstructionBytes::new(&bytes[..decoded.len()]),
            decoded,
        })),
        // No instruction is longer than 15 bytes: the CPU raises #GP at more prefixes.
        DecoderError::NoMoreBytes if bytes.len() >= MAX_LEN => Err(Exception::protection().into()),
        DecoderError::NoMoreBytes => Ok(None),
        _ => Err(Exception::invalid_opcode().into()),
    }
}
