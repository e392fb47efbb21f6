//! Between KVM and a [`Machine`](super::machine::Machine): registers, extended state, exceptions.
//!
//! A request to KVM costs about 5 us where it emulates, several times the instruction's own work. KVM can
//! leave general and control registers and events in the page that it shares with this process
//! (`KVM_CAP_SYNC_REGS`) and take them back from there at the next `KVM_RUN`. The first instruction asks for that;
//! from then on an instruction of general registers takes no request at all. A vCPU that never fails at an
//! instruction never pays for it.

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::{SyncReg, VcpuFd};

use super::error::Unsupported;
use super::fpu::Fpu;
use super::machine::{Cause, Exception, Flow, Processor, Stop, flags};

/// DR6: the exception is a single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;
/// What KVM shares.
const SHARED: u64 =
    SyncReg::Register as u64 | SyncReg::SystemRegister as u64 | SyncReg::VcpuEvents as u64;

fn failed(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> Unsupported {
    move |source| Unsupported::Kvm { request, source }
}

/// Registers before an instruction.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segment and control registers.
    pub sregs: kvm_sregs,
    events: kvm_vcpu_events,
}

/// Registers after an instruction that ended.
pub(super) struct After {
    /// General registers and RFLAGS; RIP if it jumped.
    pub regs: kvm_regs,
    /// Segment and control registers.
    pub sregs: kvm_sregs,
    /// Where the next instruction is if it did not jump.
    pub next: u64,
    /// How execution goes on.
    pub flow: Flow,
}

impl Registers {
    /// Those of `vcpu`.
    pub(super) fn load(vcpu: &mut VcpuFd) -> Result<Self, Unsupported> {
        if vcpu.get_kvm_run().kvm_valid_regs & SHARED == SHARED {
            let shared = vcpu.sync_regs();
            return Ok(Self {
                regs: shared.regs,
                sregs: shared.sregs,
                events: shared.events,
            });
        }
        Ok(Self {
            regs: vcpu.get_regs().map_err(failed("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?,
            events: vcpu
                .get_vcpu_events()
                .map_err(failed("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Gives `vcpu` the registers after an instruction that ended.
    pub(super) fn complete(&self, vcpu: &mut VcpuFd, after: After) -> Result<(), Unsupported> {
        let After {
            mut regs,
            sregs,
            next,
            flow,
        } = after;
        if flow != Flow::Jump {
            regs.rip = next;
        }
        regs.rflags &= !flags::RF;
        let vector = match flow {
            // The saved RIP is the next instruction's. On VMX and SVM KVM would add the length of `int3` once
            // more, but there the CPU executes `int3` and KVM never fails at it.
            Flow::Trap(vector) => Some(vector),
            Flow::Next | Flow::Jump if self.regs.rflags & flags::TF != 0 => {
                let mut debug = vcpu.get_debug_regs().map_err(failed("KVM_GET_DEBUGREGS"))?;
                debug.dr6 |= DR6_SINGLE_STEP;
                vcpu.set_debug_regs(&debug)
                    .map_err(failed("KVM_SET_DEBUGREGS"))?;
                Some(Exception::DEBUG)
            }
            Flow::Next | Flow::Jump => None,
        };
        self.store(vcpu, regs, sregs, vector.map(|vector| (vector, None)));
        Ok(())
    }

    /// Raises `exception` at the instruction before which `vcpu` stands.
    pub(super) fn raise(&self, vcpu: &mut VcpuFd, exception: Exception) {
        let Self {
            mut regs,
            mut sregs,
            ..
        } = *self;
        if let Some(cr2) = exception.cr2 {
            sregs.cr2 = cr2;
        }
        // What the CPU saves for a fault: the instruction is to be restarted, past a breakpoint on it.
        regs.rflags |= flags::RF;
        let event = (exception.vector, exception.error_code);
        self.store(vcpu, regs, sregs, Some(event));
    }

    /// Leaves the registers and an exception, by vector and error code, for the next `KVM_RUN`.
    fn store(
        &self,
        vcpu: &mut VcpuFd,
        regs: kvm_regs,
        sregs: kvm_sregs,
        exception: Option<(u8, Option<u32>)>,
    ) {
        let mut events = self.events;
        // Not what other threads may have changed since the exit: an NMI, for one.
        events.flags &= KVM_VCPUEVENT_VALID_SHADOW;
        // After `sti` and `mov ss` interrupts wait for one instruction: this one. If it faults, it is repeated.
        if exception.is_none() {
            events.interrupt.shadow = 0;
        }
        // Whatever was there is the #UD that KVM without KVM_CAP_EXIT_ON_EMULATION_FAILURE has queued.
        let (vector, error_code) = exception.unwrap_or_default();
        events.exception.injected = exception.is_some().into();
        events.exception.pending = 0;
        events.exception.nr = vector;
        events.exception.has_error_code = error_code.is_some().into();
        events.exception.error_code = error_code.unwrap_or(0);

        let run = vcpu.get_kvm_run();
        run.kvm_valid_regs |= SHARED;
        run.kvm_dirty_regs |= SyncReg::Register as u64;
        if sregs != self.sregs {
            run.kvm_dirty_regs |= SyncReg::SystemRegister as u64;
        }
        if events != self.events {
            run.kvm_dirty_regs |= SyncReg::VcpuEvents as u64;
        }
        let shared = vcpu.sync_regs_mut();
        shared.regs = regs;
        shared.sregs = sregs;
        shared.events = events;
    }
}

/// Gives `vcpu` the extended state that an instruction has changed.
///
/// Not by `KVM_SET_FPU`: that one leaves XSTATE_BV alone, and where it says that SSE is in its initial
/// state, the CPU forgets what was written.
pub(super) fn store_fpu(vcpu: &VcpuFd, fpu: &Fpu) -> Result<(), Stop> {
    // SAFETY: KVM reads no more than the 4096 bytes of `kvm_xsave` unless this process asks for larger
    // guest states by arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which it does not.
    unsafe { vcpu.set_xsave(fpu.as_kvm()) }.map_err(refused("KVM_SET_XSAVE"))
}

fn refused(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> Stop {
    move |source| Cause::Kvm(request, source).into()
}

impl Processor for VcpuFd {
    fn fpu(&self) -> Result<Fpu, Stop> {
        let area = self.get_xsave().map_err(refused("KVM_GET_XSAVE"))?;
        Ok(Fpu::from_kvm(area))
    }

    fn xcr0(&self) -> Result<u64, Stop> {
        let xcrs = self.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        let known = xcrs.nr_xcrs as usize;
        let xcr0 = xcrs.xcrs.iter().take(known).find(|held| held.xcr == 0);
        // Without XSAVE there is x87 only.
        Ok(xcr0.map_or(1, |held| held.value))
    }

    fn set_xcr0(&self, value: u64) -> Result<(), Stop> {
        let mut xcrs = kvm_bindings::kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = value;
        // KVM knows which values this vCPU's CPUID allows.
        self.set_xcrs(&xcrs)
            .map_err(|_| Exception::protection().into())
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>, Stop> {
        let wanted: Vec<_> = indices
            .iter()
            .map(|&index| kvm_msr_entry {
                index,
                ..Default::default()
            })
            .collect();
        let mut msrs = Msrs::from_entries(&wanted).map_err(|_| Cause::Instruction)?;
        let read = VcpuFd::get_msrs(self, &mut msrs).map_err(refused("KVM_GET_MSRS"))?;
        if read != indices.len() {
            return Err(Cause::Instruction.into());
        }
        Ok(msrs.as_slice().iter().map(|msr| msr.data).collect())
    }
}
