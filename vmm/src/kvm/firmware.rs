//! What a PC's firmware leaves in a processor, for kernels that are entered without one.

use kvm_bindings::kvm_lapic_state;

use super::vcpu::Vcpu;
use super::{KvmError, failed};

/// Word of an XSAVE area with the x87 control word; the status word is above it.
const AREA_CONTROL: usize = 0;
/// Word with MXCSR.
const AREA_MXCSR: usize = 6;
/// Word with the low half of XSTATE_BV: what is in use.
const AREA_IN_USE: usize = 128;
/// Bits of it.
const X87_AND_SSE: u32 = 0b11;
/// x87 control word: all exceptions masked, 64-bit mantissas.
const FPU_CONTROL: u32 = 0x037f;
/// MXCSR: all exceptions masked.
const MXCSR: u32 = 0x1f80;
/// Local vector table entry of pin LINT0, bytes from the start of the APIC's page.
const LVT_LINT0: usize = 0x350;
/// The same of pin LINT1.
const LVT_LINT1: usize = 0x360;
/// Bits of an entry that say how its interrupt is delivered, and the one that masks it.
const DELIVERY_AND_MASK: u32 = 7 << 8 | 1 << 16;
/// Delivered with the vector that the 8259 gives.
const EXTERNAL: u32 = 7 << 8;
/// Delivered as an NMI.
const NMI: u32 = 4 << 8;

impl Vcpu {
    /// Puts x87 and SSE into their initial state, before the vCPU runs for the first time.
    ///
    /// By XSAVE's area: `KVM_SET_FPU` ignores MXCSR, and what it sets is lost while XSTATE_BV says that nothing
    /// is in use.
    pub fn initialise_fpu(&self) -> Result<(), KvmError> {
        let mut area = self.fd.get_xsave().map_err(failed("KVM_GET_XSAVE"))?;
        area.region[AREA_CONTROL] = FPU_CONTROL;
        area.region[AREA_MXCSR] = MXCSR;
        area.region[AREA_IN_USE] |= X87_AND_SSE;
        // SAFETY: KVM reads no more than the area's 4096 bytes unless this process asks for larger guest states by
        // arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which it does not.
        unsafe { self.fd.set_xsave(&area) }.map_err(failed("KVM_SET_XSAVE"))
    }

    /// Wires the local APIC as in a PC: LINT0 to the 8259, LINT1 to NMI. Linux of an MP table expects it so.
    pub fn wire_local_apic(&self) -> Result<(), KvmError> {
        let mut apic = self.fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        deliver(&mut apic, LVT_LINT0, EXTERNAL);
        deliver(&mut apic, LVT_LINT1, NMI);
        self.fd.set_lapic(&apic).map_err(failed("KVM_SET_LAPIC"))
    }
}

/// Unmasks the entry at `at` and sets how it is delivered.
fn deliver(apic: &mut kvm_lapic_state, at: usize, how: u32) {
    let held = &mut apic.regs[at..at + 4];
    let entry = held
        .iter()
        .rev()
        .fold(0, |entry, &byte| entry << 8 | u32::from(byte as u8));
    let entry = entry & !DELIVERY_AND_MASK | how;
    for (byte, new) in held.iter_mut().zip(entry.to_le_bytes()) {
        *byte = new as _;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kvm::host::Host;
    use crate::kvm::vm::Vm;
    use crate::memory::ram::GuestRam;

    fn vcpu() -> (Vm, Vcpu) {
        let host = Host::open().expect("this test needs a working /dev/kvm");
        let ram = Arc::new(GuestRam::new(16 << 20).unwrap());
        let vm = Vm::new(&host, ram).unwrap();
        let vcpu = Vcpu::new(&vm, 0, 1, &host.cpuid().unwrap()).unwrap();
        (vm, vcpu)
    }

    #[test]
    fn the_fpu_is_in_its_initial_state() {
        let (_vm, vcpu) = vcpu();
        vcpu.initialise_fpu().unwrap();
        let area = vcpu.fd.get_xsave().unwrap().region;
        assert_eq!(area[AREA_CONTROL], 0x37f);
        assert_eq!(area[AREA_MXCSR], 0x1f80);
        assert_eq!(area[AREA_IN_USE], 3);
    }

    #[test]
    fn the_pins_are_wired_and_the_rest_of_the_apic_stays() {
        let (_vm, vcpu) = vcpu();
        let before = vcpu.fd.get_lapic().unwrap();
        vcpu.wire_local_apic().unwrap();
        let after = vcpu.fd.get_lapic().unwrap();
        let word = |apic: &kvm_lapic_state, at: usize| -> u32 {
            (0..4)
                .map(|i| u32::from(apic.regs[at + i] as u8) << (8 * i))
                .sum()
        };
        assert_eq!(word(&after, LVT_LINT0), 0x700);
        assert_eq!(word(&after, LVT_LINT1), 0x400);
        for at in (0..0x400).step_by(16) {
            if at != LVT_LINT0 && at != LVT_LINT1 {
                assert_eq!(word(&before, at), word(&after, at), "register {at:#x}");
            }
        }
    }
}
