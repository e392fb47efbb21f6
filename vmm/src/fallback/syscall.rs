//! System calls on a KVM that loses them.
//!
//! Without VMX and SVM, KVM (`kvm_pvm`) runs user code natively, and a `syscall` there gets half-way: RCX, R11, RFLAGS
//! and RIP are the kernel's, CS and SS still the user's. The fetch of the kernel's first instruction then faults,
//! and the guest's page-fault handler is told of an access that no program has made.
//!
//! The handler of Linux begins with room for `clac`: three bytes of `nop` if the guest has no SMAP. [`prepare`]
//! puts the `clac` there, at which KVM's emulator fails. [`enter`] is called when it does: if the page fault is a
//! system call, it is made one; if not, the `clac` was the `nop` that it replaces.
//!
//! [`prepare`] runs whenever the kernel restores extended state, which Linux does before it enters user code
//! for the first time. A page fault costs an exit more by all this, a system call two with its `sysret`.

use kvm_bindings::kvm_segment;

use super::machine::{Flow, Machine, Stop, control, flags};
use super::physical::{Access, load_u64, replace_u64};

/// IA32_STAR: selectors for `syscall` from bit 32 on.
const MSR_STAR: u32 = 0xc000_0081;
/// IA32_LSTAR: where `syscall` goes.
const MSR_LSTAR: u32 = 0xc000_0082;
/// IA32_FMASK: flags that it clears.
const MSR_FMASK: u32 = 0xc000_0084;

/// Vector of the page fault.
const PAGE_FAULT: u64 = 14;
/// Its error code: user code, which fetched.
const USER_FETCH: u64 = 1 << 2 | 1 << 4;
/// Flags that user code can have; interrupts are on there.
const USER_FLAGS: u64 =
    flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;

const ENDBR64: u64 = 0xfa1e_0ff3;
/// `nop dword ptr [rax]`, and three times `nop`.
const ROOM: [u64; 2] = [0x00_1f0f, 0x90_9090];
const CLAC: u64 = 0xca_010f;

/// Puts a `clac` into the room for it at the start of the page-fault handler, if there is such room.
///
/// The guest may be anything and its tables hold anything: what does not look like Linux is left alone.
pub(super) fn prepare(machine: &Machine) {
    if machine.cpl() != 0 || machine.sregs.efer & control::EFER_SCE == 0 {
        return;
    }
    let Some(handler) = handler(machine) else {
        return;
    };
    // Another vCPU may be about to execute it: all three bytes change at once, or none.
    let (word_at, within) = (handler & !7, handler % 8 * 8);
    let Ok(gpa) = machine.translate(word_at, Access::Read) else {
        return;
    };
    let Some(word) = load_u64(machine.memory, gpa) else {
        return;
    };
    let at = match (word >> within) as u32 == ENDBR64 as u32 {
        true => within + 32,
        false => within,
    };
    if at > 64 - 24 {
        return;
    }
    let mask = 0xff_ffff << at;
    if ROOM.contains(&((word & mask) >> at)) {
        let new = word & !mask | CLAC << at;
        // If it is no longer what it was, the next time will do.
        let _ = replace_u64(machine.memory, gpa, word, new);
    }
}

/// What a `clac` does before which the vCPU stands if it is the one of [`prepare`]; `None` if it is another.
pub(super) fn enter(machine: &mut Machine) -> Result<Option<Flow>, Stop> {
    let rip = machine.regs.rip;
    let at_handler = machine.cpl() == 0
        && handler(machine).is_some_and(|handler| rip == handler || rip == handler.wrapping_add(4));
    if !at_handler {
        return Ok(None);
    }
    if let Some(flow) = finish(machine)? {
        return Ok(Some(flow));
    }
    if machine.sregs.cr4 & control::CR4_SMAP != 0 {
        machine.set_flags(flags::AC, 0);
    }
    Ok(Some(Flow::Next))
}

/// Finishes the system call that caused the page fault whose handler was just entered; `None` if none did.
fn finish(machine: &mut Machine) -> Result<Option<Flow>, Stop> {
    let Some(frame) = Frame::read(machine) else {
        return Ok(None);
    };
    let is_fetch = frame.error & USER_FETCH == USER_FETCH && frame.cs & 3 == 3;
    // Kernels are in the upper half, and a fetch from there is rare enough to ask KVM about it.
    if !is_fetch || frame.rip >> 63 == 0 {
        return Ok(None);
    }
    let msrs = machine.processor.msrs(&[MSR_STAR, MSR_LSTAR, MSR_FMASK])?;
    let [star, lstar, mask] = msrs[..] else {
        return Ok(None);
    };
    if frame.rip != lstar {
        return Ok(None);
    }

    // A program may have jumped here by itself, with anything in R11.
    machine.regs.r11 = machine.regs.r11 & USER_FLAGS | flags::IF | 2;
    machine.regs.rflags = machine.regs.r11 & !mask | 2;
    machine.regs.rip = lstar;
    machine.regs.rsp = frame.rsp;
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let selector = (star >> 32) as u16 & !3;
    machine.sregs.cs = kvm_segment {
        selector,
        type_: 0xb,
        l: 1,
        ..flat
    };
    machine.sregs.ss = kvm_segment {
        selector: selector.wrapping_add(8),
        type_: 0x3,
        db: 1,
        ..flat
    };
    Ok(Some(Flow::Jump))
}

/// Where the guest handles page faults, if its table says so.
fn handler(machine: &Machine) -> Option<u64> {
    let idt = &machine.sregs.idt;
    let gate = PAGE_FAULT * 16;
    if u64::from(idt.limit) < gate + 15 {
        return None;
    }
    let at = idt.base.wrapping_add(gate);
    let gate = machine.span(at, 16, Access::Read).ok()?.read();
    // Present, an interrupt gate.
    if gate >> 40 & 0x9f != 0x8e {
        return None;
    }
    Some((gate & 0xffff | gate >> 32 & 0xffff_0000 | gate >> 64 << 32) as u64)
}

/// What the CPU has pushed.
struct Frame {
    error: u64,
    rip: u64,
    cs: u64,
    rsp: u64,
}

impl Frame {
    /// That of an exception whose handler has just been entered; `None` if it cannot be read.
    fn read(machine: &Machine) -> Option<Self> {
        let pair = |offset: u64| {
            let at = machine.regs.rsp.wrapping_add(offset);
            let words = machine.span(at, 16, Access::Read).ok()?.read();
            Some((words as u64, (words >> 64) as u64))
        };
        let (error, rip) = pair(0)?;
        let (cs, _) = pair(16)?;
        let (rsp, _) = pair(32)?;
        Some(Self {
            error,
            rip,
            cs,
            rsp,
        })
    }
}
