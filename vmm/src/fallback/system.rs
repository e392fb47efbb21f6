//! Instructions of kernels: privileged ones, segment bases, caches.

use iced_x86::{Instruction, OpKind, Register};
use kvm_bindings::kvm_segment;

use super::machine::{Exception, Flow, Machine, Stop, control, flags};
use super::physical::Access;

/// IA32_STAR: selectors for `syscall` and, from bit 48 on, for `sysret`.
const MSR_STAR: u32 = 0xc000_0081;
/// RFLAGS that `sysret` takes from R11; bit 1 is always set.
const SYSRET_FLAGS: u64 = 0x3c_7fd7;

/// `stac` (`allow`) and `clac`: whether the supervisor may access user pages under SMAP.
pub(super) fn set_ac(machine: &mut Machine, allow: bool) -> Result<Flow, Stop> {
    if machine.cpl() != 0 {
        return Err(Exception::invalid_opcode().into());
    }
    machine.set_flags(flags::AC, if allow { flags::AC } else { 0 });
    Ok(Flow::Next)
}

/// `clflush`, `clflushopt`, `clwb`: nothing to be seen, but the byte must be there to be read.
pub(super) fn cache_line(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    machine.memory_operand(instruction, 0, 1, false, Access::Read)?;
    Ok(Flow::Next)
}

/// `wbinvd`, `wbnoinvd`: nothing to be seen.
pub(super) fn write_back(machine: &mut Machine) -> Result<Flow, Stop> {
    privileged(machine)?;
    Ok(Flow::Next)
}

/// `rdfsbase`, `rdgsbase`: the base of segment `of`.
pub(super) fn read_base(
    machine: &mut Machine,
    instruction: &Instruction,
    of: Register,
) -> Result<Flow, Stop> {
    bases_allowed(machine)?;
    let base = *base(machine, of);
    machine.write(instruction, 0, false, base.into())?;
    Ok(Flow::Next)
}

/// `wrfsbase`, `wrgsbase`: sets the base of segment `of`; `#GP(0)` if it is not canonical.
pub(super) fn write_base(
    machine: &mut Machine,
    instruction: &Instruction,
    of: Register,
) -> Result<Flow, Stop> {
    bases_allowed(machine)?;
    let value = machine.read(instruction, 0, false)? as u64;
    if !machine.is_canonical(value) {
        return Err(Exception::protection().into());
    }
    *base(machine, of) = value;
    Ok(Flow::Next)
}

fn base<'m>(machine: &'m mut Machine<'_>, of: Register) -> &'m mut u64 {
    match of {
        Register::FS => &mut machine.sregs.fs.base,
        _ => &mut machine.sregs.gs.base,
    }
}

fn bases_allowed(machine: &Machine) -> Result<(), Stop> {
    match machine.sregs.cr4 & control::CR4_FSGSBASE {
        0 => Err(Exception::invalid_opcode().into()),
        _ => Ok(()),
    }
}

/// `sysret`: to CPL3, 64-bit code (`wide`) or 32-bit code, at RCX with the flags of R11.
pub(super) fn sysret(machine: &mut Machine, wide: bool) -> Result<Flow, Stop> {
    if machine.sregs.efer & control::EFER_SCE == 0 {
        return Err(Exception::invalid_opcode().into());
    }
    privileged(machine)?;
    let target = machine.regs.rcx;
    if wide && !machine.is_canonical(target) {
        return Err(Exception::protection().into());
    }
    let star = machine.processor.msrs(&[MSR_STAR])?;
    let selectors = star.first().map_or(0, |star| (star >> 48) as u16);
    let flat = kvm_segment {
        limit: u32::MAX,
        present: 1,
        dpl: 3,
        s: 1,
        g: 1,
        ..Default::default()
    };
    machine.sregs.cs = kvm_segment {
        selector: selectors.wrapping_add(if wide { 16 } else { 0 }) | 3,
        type_: 0xb,
        l: wide.into(),
        db: (!wide).into(),
        ..flat
    };
    machine.sregs.ss = kvm_segment {
        selector: selectors.wrapping_add(8) | 3,
        type_: 0x3,
        db: 1,
        ..flat
    };
    machine.regs.rip = if wide { target } else { target & 0xffff_ffff };
    machine.regs.rflags = machine.regs.r11 & SYSRET_FLAGS | 2;
    Ok(Flow::Jump)
}

/// `verr` and `verw` (`to_write`): whether a segment could be read or written from here, in ZF.
///
/// Kernels run `verw` for what it does besides: it empties buffers of processors that leak them.
pub(super) fn verify(
    machine: &mut Machine,
    instruction: &Instruction,
    to_write: bool,
) -> Result<Flow, Stop> {
    let selector = match instruction.op_kind(0) {
        OpKind::Memory => machine
            .memory_operand(instruction, 0, 2, false, Access::Read)?
            .read(),
        _ => machine.read(instruction, 0, false)?,
    } as u16;
    let usable = match descriptor(machine, selector)? {
        Some(descriptor) => could_access(machine, selector, descriptor, to_write),
        None => false,
    };
    machine.set_flags(flags::ZF, if usable { flags::ZF } else { 0 });
    Ok(Flow::Next)
}

/// The descriptor that `selector` names; `None` if there is none.
fn descriptor(machine: &Machine, selector: u16) -> Result<Option<u64>, Stop> {
    let sregs = &machine.sregs;
    let (base, limit) = match selector & 4 {
        0 => (sregs.gdt.base, sregs.gdt.limit.into()),
        _ if sregs.ldt.unusable != 0 || sregs.ldt.present == 0 => return Ok(None),
        _ => (sregs.ldt.base, sregs.ldt.limit),
    };
    let offset = selector & !7;
    if selector & !3 == 0 || u32::from(offset) + 7 > limit {
        return Ok(None);
    }
    // At CPL3 the CPU would read the table with the supervisor's rights; KVM has code at CPL3 run natively.
    let at = base.wrapping_add(offset.into());
    let descriptor = machine.span(at, 8, Access::Read)?;
    Ok(Some(descriptor.read() as u64))
}

fn could_access(machine: &Machine, selector: u16, descriptor: u64, to_write: bool) -> bool {
    let bit = |n: u32| descriptor >> n & 1 != 0;
    let dpl = (descriptor >> 45 & 3) as u8;
    let (code, conforming, writable) = (bit(43), bit(42), bit(41));
    let readable = !code || bit(41);
    let privileged = dpl >= machine.cpl().max((selector & 3) as u8);
    // Bit 44: neither a gate nor a system segment.
    bit(44)
        && (privileged || code && conforming)
        && match to_write {
            true => !code && writable,
            false => readable,
        }
}

/// Raises `#GP(0)` unless at CPL0.
fn privileged(machine: &Machine) -> Result<(), Stop> {
    match machine.cpl() {
        0 => Ok(()),
        _ => Err(Exception::protection().into()),
    }
}
