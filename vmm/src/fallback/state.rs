//! Between KVM's registers and a [`Machine`].

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_xsave};
use kvm_ioctls::VcpuFd;

use super::error::Unsupported;
use super::machine::{Exception, Flow, Fpu, Machine, flags};

/// DR6: the exception is a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

fn failed(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> Unsupported {
    move |source| Unsupported::Kvm { request, source }
}

/// The vCPU's general, segment and control registers.
pub(super) fn load(vcpu: &VcpuFd) -> Result<(kvm_regs, kvm_sregs), Unsupported> {
    Ok((
        vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?,
        vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
    ))
}

/// Stores the registers after an instruction that ended, and goes on as `flow` says.
pub(super) fn complete(
    vcpu: &VcpuFd,
    machine: &Machine,
    next: u64,
    flow: Flow,
) -> Result<(), Unsupported> {
    let mut regs = machine.regs;
    let stepped = regs.rflags & flags::TF != 0;
    regs.rip = next;
    regs.rflags &= !flags::RF;
    // This also drops the #UD that KVM without KVM_CAP_EXIT_ON_EMULATION_FAILURE has queued.
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    match flow {
        // The saved RIP is the next instruction's. On VMX and SVM KVM would add the length of `int3` once
        // more, but there the CPU executes `int3` and KVM never fails at it.
        Flow::Trap(vector) => inject(vcpu, vector, None),
        Flow::Next if stepped => {
            let mut debug = vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
            debug.dr6 |= DR6_SINGLE_STEP;
            vcpu.set_debug_regs(&debug)
                .map_err(failed("KVM_SET_DEBUGREGS"))?;
            inject(vcpu, Exception::DEBUG, None)
        }
        Flow::Next => Ok(()),
    }
}

/// Raises `exception` at the instruction before which the vCPU stands.
pub(super) fn raise(
    vcpu: &VcpuFd,
    mut regs: kvm_regs,
    sregs: &kvm_sregs,
    exception: Exception,
) -> Result<(), Unsupported> {
    if let Some(cr2) = exception.cr2 {
        let sregs = kvm_sregs { cr2, ..*sregs };
        vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    }
    // What the CPU saves for a fault: the instruction is to be restarted, past a breakpoint on it.
    regs.rflags |= flags::RF;
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
    inject(vcpu, exception.vector, exception.error_code)
}

fn inject(vcpu: &VcpuFd, vector: u8, error_code: Option<u32>) -> Result<(), Unsupported> {
    let mut events = vcpu
        .get_vcpu_events()
        .map_err(failed("KVM_GET_VCPU_EVENTS"))?;
    events.exception.injected = 1;
    events.exception.pending = 0;
    events.exception.nr = vector;
    events.exception.has_error_code = error_code.is_some().into();
    events.exception.error_code = error_code.unwrap_or(0);
    vcpu.set_vcpu_events(&events)
        .map_err(failed("KVM_SET_VCPU_EVENTS"))
}

/// The vCPU's extended state as KVM gives it, in the standard format of XSAVE.
///
/// Not `KVM_SET_FPU`: that one leaves XSTATE_BV alone, and where it says that SSE is in its initial
/// state, the CPU forgets what was written.
pub(super) struct FpuImage(Box<kvm_xsave>);

/// Offsets in an XSAVE area, in bytes.
mod offset {
    pub const STATUS: usize = 2;
    pub const TAGS: usize = 4;
    pub const XMM: usize = 160;
    pub const XSTATE_BV: usize = 512;
}

/// XSTATE_BV: x87 and SSE are not in their initial state.
const X87_AND_SSE: u8 = 0b11;

impl FpuImage {
    /// The state of `vcpu`.
    pub(super) fn load(vcpu: &VcpuFd) -> Result<Self, Unsupported> {
        let image = vcpu.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
        Ok(Self(Box::new(image)))
    }

    /// What of it the instructions touch.
    pub(super) fn fpu(&self) -> Fpu {
        Fpu {
            status: u16::from_le_bytes(self.array(offset::STATUS)),
            tags: self.array::<1>(offset::TAGS)[0],
            xmm: std::array::from_fn(|i| u128::from_le_bytes(self.array(offset::XMM + 16 * i))),
        }
    }

    /// Gives the state to `vcpu`, with `fpu` in it, if that is different.
    pub(super) fn store(mut self, vcpu: &VcpuFd, fpu: &Fpu) -> Result<(), Unsupported> {
        if self.fpu() == *fpu {
            return Ok(());
        }
        self.put(offset::STATUS, &fpu.status.to_le_bytes());
        self.put(offset::TAGS, &[fpu.tags]);
        for (i, xmm) in fpu.xmm.iter().enumerate() {
            self.put(offset::XMM + 16 * i, &xmm.to_le_bytes());
        }
        let [components] = self.array(offset::XSTATE_BV);
        self.put(offset::XSTATE_BV, &[components | X87_AND_SSE]);
        // SAFETY: KVM reads no more than the 4096 bytes of `kvm_xsave` unless this process asks for larger
        // guest states by arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which it does not.
        unsafe { vcpu.set_xsave(&self.0) }.map_err(failed("KVM_SET_XSAVE"))
    }

    /// `N` bytes at `at`; the region is an array of words, in memory order.
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0.region[(at + i) / 4].to_le_bytes()[(at + i) % 4])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            let word = &mut self.0.region[(at + i) / 4];
            let mut parts = word.to_le_bytes();
            parts[(at + i) % 4] = *byte;
            *word = u32::from_le_bytes(parts);
        }
    }
}
