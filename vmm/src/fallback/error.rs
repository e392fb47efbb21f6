//! What an instruction was that could not be finished, and what to do about it.

use iced_x86::{Instruction, Mnemonic};
use kvm_bindings::{kvm_regs, kvm_sregs};
use thiserror::Error;

use super::fetch::InstructionBytes;
use super::machine::Cause;

const REMEDY: &str = "run it on a host with VMX or SVM, where the CPU executes such code itself, or \
                      build the guest without it";

/// An instruction that neither KVM nor this monitor can execute.
#[derive(Debug, Error)]
pub enum Unsupported {
    /// The instruction is not covered.
    #[error(
        "the guest executes `{mnemonic}` (bytes {bytes}) at rip {rip:#x}, CPL {cpl}, which this host's KVM \
         does not emulate and gmem does not finish: {REMEDY}"
    )]
    Instruction {
        /// Its name.
        mnemonic: String,
        /// Its bytes.
        bytes: InstructionBytes,
        /// Where it stands.
        rip: u64,
        /// Privilege level that executes it.
        cpl: u8,
    },
    /// The vCPU is not in 64-bit code.
    #[error(
        "this host's KVM cannot emulate the guest's instruction (bytes {bytes}) at rip {rip:#x} in 16- or \
         32-bit code, and gmem finishes 64-bit code only: {REMEDY}"
    )]
    Mode {
        /// The instruction's bytes, as far as KVM gave them.
        bytes: InstructionBytes,
        /// Where it stands.
        rip: u64,
    },
    /// An operand or a page table is outside guest RAM.
    #[error(
        "`{mnemonic}` (bytes {bytes}) at rip {rip:#x} needs guest-physical address {gpa:#x}, where the guest \
         has no RAM, and gmem finishes it in RAM only: access devices by plain moves, or give \
         the guest more memory"
    )]
    NotRam {
        /// The instruction's name; `fetch` if it could not be read.
        mnemonic: String,
        /// Its bytes.
        bytes: InstructionBytes,
        /// Where it stands.
        rip: u64,
        /// The guest-physical address.
        gpa: u64,
    },
    /// The guest protects the page by a key.
    #[error(
        "`{mnemonic}` (bytes {bytes}) at rip {rip:#x} accesses address {address:#x}, a page with a \
         protection key, which gmem does not check: boot the guest without protection keys (Linux: `nopku`)"
    )]
    ProtectionKey {
        /// The instruction's name; `fetch` if it could not be read.
        mnemonic: String,
        /// Its bytes.
        bytes: InstructionBytes,
        /// Where it stands.
        rip: u64,
        /// The guest-virtual address.
        address: u64,
    },
    /// An x87 error is due as an interrupt.
    #[error(
        "`{mnemonic}` at rip {rip:#x} reports an x87 error while CR0.NE is 0, which gmem does not deliver as \
         an interrupt: set CR0.NE in the guest"
    )]
    X87Interrupt {
        /// The instruction's name.
        mnemonic: String,
        /// Where it stands.
        rip: u64,
    },
    /// KVM refused to give or take registers.
    #[error(
        "{request} failed ({source}) while an instruction was finished for KVM: `gmem check` shows what \
         this host's KVM has"
    )]
    Kvm {
        /// The request.
        request: &'static str,
        /// KVM's answer.
        source: kvm_ioctls::Error,
    },
}

/// Where an instruction stands and what it is, for messages.
pub(super) struct Place {
    mnemonic: Option<Mnemonic>,
    bytes: InstructionBytes,
    rip: u64,
    cpl: u8,
}

impl Place {
    /// The instruction at RIP, not yet decoded.
    pub(super) fn new(regs: &kvm_regs, sregs: &kvm_sregs, bytes: &[u8]) -> Self {
        Self {
            mnemonic: None,
            bytes: InstructionBytes::new(bytes),
            rip: regs.rip,
            cpl: sregs.ss.dpl,
        }
    }

    /// Notes which instruction it is.
    pub(super) fn is(&mut self, instruction: &Instruction, bytes: &[u8]) {
        self.mnemonic = Some(instruction.mnemonic());
        self.bytes = InstructionBytes::new(bytes);
    }

    /// The error for `cause`.
    pub(super) fn unsupported(self, cause: Cause) -> Unsupported {
        let Self {
            mnemonic,
            bytes,
            rip,
            cpl,
        } = self;
        let mnemonic = match mnemonic {
            Some(mnemonic) => format!("{mnemonic:?}").to_lowercase(),
            None => String::from("fetch"),
        };
        match cause {
            Cause::Instruction => Unsupported::Instruction {
                mnemonic,
                bytes,
                rip,
                cpl,
            },
            Cause::Mode => Unsupported::Mode { bytes, rip },
            Cause::NotRam(gpa) => Unsupported::NotRam {
                mnemonic,
                bytes,
                rip,
                gpa,
            },
            Cause::ProtectionKey(address) => Unsupported::ProtectionKey {
                mnemonic,
                bytes,
                rip,
                address,
            },
            Cause::X87Interrupt => Unsupported::X87Interrupt { mnemonic, rip },
            Cause::Kvm(request, source) => Unsupported::Kvm { request, source },
        }
    }
}
