//! A vCPU's registers while one instruction is done, and what can come of it.

use std::cell::OnceCell;

use kvm_bindings::{kvm_regs, kvm_sregs};

use super::fpu::Fpu;
use super::physical::GuestPhysical;

/// Bits of RFLAGS.
pub(super) mod flags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap after this instruction.
    pub const TF: u64 = 1 << 8;
    /// Interrupts are taken.
    pub const IF: u64 = 1 << 9;
    /// String instructions go down.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// What arithmetic leaves.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume: no instruction breakpoint at the next one.
    pub const RF: u64 = 1 << 16;
    /// Alignment check; at CPL0 with SMAP: user pages may be accessed.
    pub const AC: u64 = 1 << 18;
    /// Can be changed: there is CPUID.
    pub const ID: u64 = 1 << 21;
}

/// Bits of the control registers and of EFER.
pub(super) mod control {
    /// CR0: `wait` obeys [`CR0_TS`].
    pub const CR0_MP: u64 = 1 << 1;
    /// CR0: no x87 and no SSE.
    pub const CR0_EM: u64 = 1 << 2;
    /// CR0: the FPU's state is another task's.
    pub const CR0_TS: u64 = 1 << 3;
    /// CR0: x87 errors are `#MF`, not an interrupt.
    pub const CR0_NE: u64 = 1 << 5;
    /// CR0: the supervisor obeys read-only pages.
    pub const CR0_WP: u64 = 1 << 16;
    /// CR4: SSE is on.
    pub const CR4_OSFXSR: u64 = 1 << 9;
    /// CR4: `rdfsbase` and its like are allowed.
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    /// CR4: XSAVE and what goes with it are on.
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    /// CR4: five levels of page tables.
    pub const CR4_LA57: u64 = 1 << 12;
    /// CR4: the supervisor does not execute user pages.
    pub const CR4_SMEP: u64 = 1 << 20;
    /// CR4: the supervisor does not access user pages unless AC is set.
    pub const CR4_SMAP: u64 = 1 << 21;
    /// CR4: protection keys for user pages.
    pub const CR4_PKE: u64 = 1 << 22;
    /// CR4: protection keys for supervisor pages.
    pub const CR4_PKS: u64 = 1 << 24;
    /// EFER: `syscall` and `sysret` are on.
    pub const EFER_SCE: u64 = 1 << 0;
    /// EFER: 64-bit mode is active.
    pub const EFER_LMA: u64 = 1 << 10;
    /// EFER: page-table entries have a no-execute bit.
    pub const EFER_NXE: u64 = 1 << 11;
}

/// An exception that the guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// Its vector.
    pub vector: u8,
    /// Its error code, if it has one.
    pub error_code: Option<u32>,
    /// What it leaves in CR2, if it does.
    pub cr2: Option<u64>,
}

impl Exception {
    /// `#DB`, debug.
    pub const DEBUG: u8 = 1;
    /// `#BP`, breakpoint.
    pub const BREAKPOINT: u8 = 3;

    const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            cr2: None,
        }
    }

    /// `#UD`, invalid opcode.
    pub const fn invalid_opcode() -> Self {
        Self::plain(6)
    }

    /// `#NM`, FPU not available.
    pub const fn fpu_not_available() -> Self {
        Self::plain(7)
    }

    /// `#MF`, x87 error.
    pub const fn x87_error() -> Self {
        Self::plain(16)
    }

    /// `#SS(0)`, stack fault.
    pub const fn stack() -> Self {
        Self {
            error_code: Some(0),
            ..Self::plain(12)
        }
    }

    /// `#GP(0)`, general protection.
    pub const fn protection() -> Self {
        Self {
            error_code: Some(0),
            ..Self::plain(13)
        }
    }

    /// `#PF` at `address`.
    pub const fn page_fault(address: u64, error_code: u32) -> Self {
        Self {
            vector: 14,
            error_code: Some(error_code),
            cr2: Some(address),
        }
    }
}

/// Why an instruction cannot be finished here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is not covered.
    Instruction,
    /// The vCPU is not in 64-bit code.
    Mode,
    /// It needs guest-physical memory at this address, which is not RAM.
    NotRam(u64),
    /// This page has a protection key.
    ProtectionKey(u64),
    /// It reports an x87 error, which this guest takes as an interrupt (CR0.NE is 0).
    X87Interrupt,
    /// KVM refused this request for a part of the vCPU.
    Kvm(&'static str, kvm_ioctls::Error),
}

/// Why an instruction stopped before its end; nothing of it has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It faults.
    Exception(Exception),
    /// It cannot be finished here.
    Cannot(Cause),
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Cannot(cause)
    }
}

/// How execution goes on after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// With the next instruction.
    Next,
    /// Where [`Machine::regs`] says.
    Jump,
    /// With the handler of this exception, which returns to the next instruction.
    Trap(u8),
}

/// The parts of a vCPU that take a request to KVM each, and that few instructions need.
pub(super) trait Processor {
    /// Its x87, SSE and other extended state.
    fn fpu(&self) -> Result<Fpu, Stop>;
    /// XCR0.
    fn xcr0(&self) -> Result<u64, Stop>;
    /// Sets XCR0; `#GP(0)` if this vCPU cannot have that value.
    fn set_xcr0(&self, value: u64) -> Result<(), Stop>;
    /// The values of these model-specific registers.
    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>, Stop>;
}

/// A vCPU's registers and its memory.
pub(super) struct Machine<'a> {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segment and control registers.
    pub sregs: kvm_sregs,
    /// Guest-physical memory.
    pub memory: &'a dyn GuestPhysical,
    /// The rest of the vCPU.
    pub processor: &'a dyn Processor,
    /// Extended state; loaded only for instructions that use it.
    fpu: OnceCell<Fpu>,
}

impl<'a> Machine<'a> {
    /// A machine in this state.
    pub(super) fn new(
        regs: kvm_regs,
        sregs: kvm_sregs,
        memory: &'a dyn GuestPhysical,
        processor: &'a dyn Processor,
    ) -> Self {
        Self {
            regs,
            sregs,
            memory,
            processor,
            fpu: OnceCell::new(),
        }
    }

    /// Extended state.
    pub(super) fn fpu(&self) -> Result<&Fpu, Stop> {
        if let Some(fpu) = self.fpu.get() {
            return Ok(fpu);
        }
        let fpu = self.processor.fpu()?;
        Ok(self.fpu.get_or_init(|| fpu))
    }

    /// Extended state, to be changed.
    pub(super) fn fpu_mut(&mut self) -> Result<&mut Fpu, Stop> {
        self.fpu()?;
        // It was loaded by the line before.
        self.fpu.get_mut().ok_or(Cause::Instruction.into())
    }

    /// Replaces the whole extended state.
    pub(super) fn set_fpu(&mut self, fpu: Fpu) {
        self.fpu = OnceCell::from(fpu);
    }

    /// The extended state to give back to the vCPU; `None` if no instruction has changed it.
    pub(super) fn changed_fpu(&self) -> Option<&Fpu> {
        self.fpu.get().filter(|fpu| fpu.is_changed())
    }

    /// Current privilege level, 0 to 3.
    pub(super) fn cpl(&self) -> u8 {
        self.sregs.ss.dpl
    }

    /// Whether the vCPU executes 64-bit code.
    pub(super) fn in_64_bit_code(&self) -> bool {
        self.sregs.efer & control::EFER_LMA != 0 && self.sregs.cs.l != 0
    }

    /// Sets `set` and clears the others of `affected` in RFLAGS.
    pub(super) fn set_flags(&mut self, affected: u64, set: u64) {
        self.regs.rflags = self.regs.rflags & !affected | set;
    }
}
