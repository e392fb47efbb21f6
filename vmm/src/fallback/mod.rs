//! Finishes instructions that the host's KVM cannot emulate.
//!
//! Where KVM emulates code (a host without VMX or SVM emulates all of CPL0; elsewhere this is rare), its
//! emulator knows only part of the instruction set. At the rest `KVM_RUN` returns with
//! `KVM_EXIT_INTERNAL_ERROR`, suberror `KVM_INTERNAL_ERROR_EMULATION`, and the vCPU stands before the
//! instruction. [`emulate`] decodes it, does what the CPU would do, and the vCPU can be run again.
//!
//! ```text
//! KVM_RUN -> failed_instruction(run) -> emulate(vcpu, memory, bytes) -> KVM_RUN
//! ```
//!
//! One instruction takes this way through its modules:
//!
//! | module | what it does |
//! |---|---|
//! | `state` | KVM's registers into a `Machine`, and back, with the exception to raise |
//! | `fetch` | bytes (of the exit, otherwise of guest memory) into a decoded instruction |
//! | `dispatch` | the instruction's mnemonic to the code that does it |
//! | `integer`, `bits`, `sse`, `x87`, `fxsave`, `xsave`, `system` | the instructions |
//! | `syscall` | system calls that a KVM without VMX and SVM loses |
//! | `fpu` | extended state, as KVM gives it |
//! | `operand`, `area` | registers, effective addresses, memory operands of a few bytes and of many |
//! | `walk` | guest-virtual to guest-physical, with the CPU's faults |
//! | `physical` | guest-physical memory, given by the caller |
//!
//! Covered is 64-bit code, of these instructions:
//!
//! - `int3`, `ud0` to `ud2`; `nop`, `pause`, `endbr`, fences, prefetches and other hints;
//! - `popcnt`, `lzcnt`, `tzcnt`, BMI1, BMI2, ADX, `movbe`, `crc32`, `cmpxchg16b`, `rdrand`, `rdseed`;
//! - `fwait`, `fnclex`, `fninit`, `emms`, `fnstcw`, `fldcw`, `fnstsw`, `fild`; `ldmxcsr`, `stmxcsr`;
//! - `fxsave`, `fxrstor`, `xsave`, `xsaveopt`, `xsavec`, `xrstor`, without and with REX.W; `xsaves` and `xrstors` while
//!   there are no supervisor components (IA32_XSS is 0); `xgetbv`, `xsetbv`;
//! - `clac`, `stac`, `sysret`, `rdfsbase` and its like, `verr`, `verw`, `clflush`, `clflushopt`, `clwb`, `wbinvd`;
//! - the SSE and SSE2 moves and integer instructions of a compiler.
//!
//! The semantics follow the Intel SDM, volumes 1 to 3 (volume 3, 4.5 to 4.8, for paging), and are tested
//! against the CPU. What they cost is in docs/fallback.md.

mod area;
mod bits;
mod dispatch;
mod error;
mod fetch;
mod fpu;
mod fxsave;
mod integer;
mod machine;
mod operand;
mod physical;
mod sse;
mod state;
mod syscall;
mod system;
mod walk;
mod x87;
mod xsave;

#[cfg(test)]
mod testing;

pub use error::Unsupported;
pub use fetch::{InstructionBytes, failed_instruction};
pub use physical::{Access, GuestPhysical};

use kvm_bindings::{KVM_CAP_EXIT_ON_EMULATION_FAILURE, kvm_enable_cap};
use kvm_ioctls::{VcpuFd, VmFd};

use machine::Stop;

/// Asks KVM to report every instruction that it cannot emulate, with its bytes, at every privilege level.
///
/// Returns whether this KVM can. Where it cannot, it still reports those at CPL0, without bytes, and
/// raises `#UD` in the guest for others: [`emulate`] copes with both.
///
/// # Errors
///
/// KVM has the capability and refuses to enable it.
pub fn enable(vm: &VmFd) -> Result<bool, kvm_ioctls::Error> {
    if vm.check_extension_raw(KVM_CAP_EXIT_ON_EMULATION_FAILURE.into()) <= 0 {
        return Ok(false);
    }
    vm.enable_cap(&kvm_enable_cap {
        cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        args: [1, 0, 0, 0],
        ..Default::default()
    })?;
    Ok(true)
}

/// Does the instruction before which `vcpu` stands, as the CPU would, or raises the exception that the
/// CPU would raise; then the vCPU can be run again.
///
/// `bytes` are those of the exit ([`failed_instruction`]); what is missing, all if it is empty, is
/// fetched from guest memory. Call it from the vCPU's thread, after the exit and before the next `KVM_RUN`. It
/// reads and writes guest memory and waits for pages that are not there, like the vCPU itself.
///
/// Registers and exceptions are left in the page that KVM shares with this process (this needs
/// `KVM_CAP_SYNC_REGS`): KVM takes them at the next `KVM_RUN`, also if that ends at once because of
/// `immediate_exit`. Until then `KVM_GET_REGS` and its like return what was before, and what their
/// counterparts set is overwritten.
///
/// # Errors
///
/// [`Unsupported`] if the instruction is none of those covered, or needs something that is not: the vCPU and
/// guest memory are as before (except for accessed and dirty bits of page tables), and running the vCPU
/// again fails in the same way. [`Unsupported::Kvm`] if KVM refuses its registers: the vCPU cannot go on.
pub fn emulate(
    vcpu: &mut VcpuFd,
    memory: &dyn GuestPhysical,
    bytes: &[u8],
) -> Result<(), Unsupported> {
    let before = state::Registers::load(vcpu)?;
    let mut at = error::Place::new(&before.regs, &before.sregs, bytes);
    match finish(vcpu, &before, memory, bytes, &mut at) {
        Ok(after) => before.complete(vcpu, after),
        Err(Stop::Exception(exception)) => {
            before.raise(vcpu, exception);
            Ok(())
        }
        Err(Stop::Cannot(cause)) => Err(at.unsupported(cause)),
    }
}

/// Does all of the instruction but its registers, which it returns, and notes in `at` what it is.
fn finish(
    vcpu: &VcpuFd,
    before: &state::Registers,
    memory: &dyn GuestPhysical,
    bytes: &[u8],
    at: &mut error::Place,
) -> Result<state::After, Stop> {
    let mut machine = machine::Machine::new(before.regs, before.sregs, memory, vcpu);
    let fetched = fetch::decode(&machine, bytes)?;
    at.is(&fetched.decoded, &fetched.bytes);
    let flow = dispatch::execute(&mut machine, &fetched.decoded)?;
    if let Some(fpu) = machine.changed_fpu() {
        state::store_fpu(vcpu, fpu)?;
    }
    Ok(state::After {
        regs: machine.regs,
        sregs: machine.sregs,
        next: fetched.decoded.next_ip(),
        flow,
    })
}
