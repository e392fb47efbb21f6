//! A vCPU before and between its runs: identity, registers, position.

use kvm_bindings::{CpuId, KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use kvm_ioctls::VcpuFd;

use super::exits::Position;
use super::pace::Pace;
use super::vm::Vm;
use super::{KvmError, cpuid, entry, failed};
use crate::boot::Entry;

/// A virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    pub(super) index: usize,
    pub(super) fd: VcpuFd,
    pub(super) pace: Pace,
    pub(super) emulation_failures_exit: bool,
}

impl Vcpu {
    /// Creates vCPU `index` of `count`; `supported` is what [`super::host::Host::cpuid`] said. All but the
    /// first wait for the guest's start-up interrupt until [`Self::enter`].
    pub fn new(vm: &Vm, index: usize, count: usize, supported: &CpuId) -> Result<Self, KvmError> {
        let fd = vm
            .fd()
            .create_vcpu(index as u64)
            .map_err(failed("KVM_CREATE_VCPU"))?;
        fd.set_cpuid2(&cpuid::for_vcpu(supported, index, count))
            .map_err(failed("KVM_SET_CPUID2"))?;
        Ok(Self {
            index,
            fd,
            pace: Pace::default(),
            emulation_failures_exit: vm.emulation_failures_exit(),
        })
    }

    /// Number of the vCPU, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Sets the registers for `entry` and makes the vCPU runnable.
    pub fn enter(&self, entry: &Entry) -> Result<(), KvmError> {
        let sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        self.fd
            .set_sregs(&entry::system(entry.protocol, sregs))
            .map_err(failed("KVM_SET_SREGS"))?;
        self.fd
            .set_regs(&entry::general(entry, self.index))
            .map_err(failed("KVM_SET_REGS"))?;
        if self.index > 0 {
            let runnable = kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            };
            self.fd
                .set_mp_state(runnable)
                .map_err(failed("KVM_SET_MP_STATE"))?;
        }
        Ok(())
    }

    /// Frequency of the vCPU's time stamp counter, kHz.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        self.fd.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))
    }

    /// Where the vCPU is. `None` if KVM cannot say.
    pub fn position(&self) -> Option<Position> {
        let rip = self.fd.get_regs().ok()?.rip;
        let sregs = self.fd.get_sregs().ok()?;
        // In real mode the selector is an address, and everything is privileged.
        let protected = sregs.cr0 & 1 != 0;
        let cpl = if protected {
            (sregs.cs.selector & 3) as u8
        } else {
            0
        };
        Some(Position { rip, cpl })
    }
}
