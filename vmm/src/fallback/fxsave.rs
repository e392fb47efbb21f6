//! FXSAVE and FXRSTOR, and MXCSR by itself.
//!
//! Intel SDM volume 1, 10.5. KVM's emulator does them in 32-bit code only.

use iced_x86::Instruction;

use super::area::Area;
use super::fpu::{SSE, X87, at, mxcsr_mask};
use super::machine::{Exception, Flow, Machine, Stop, control};
use super::physical::Access;
use super::xsave::{read_x87, x87_head};
use super::{sse, x87};

/// Bytes at whose multiples an area begins.
const ALIGNMENT: u64 = 16;

/// `fxsave`: x87 and SSE to memory. `wide`: x87's pointers of 64 bits.
pub(super) fn fxsave(
    machine: &Machine,
    instruction: &Instruction,
    wide: bool,
) -> Result<Flow, Stop> {
    x87::available(machine)?;
    let fpu = machine.fpu()?;
    let image = fpu.bytes();
    let head = x87_head(fpu, wide);
    let mut area = Area::new(machine, instruction, ALIGNMENT, Access::Write)?;
    let to_sse = at::MXCSR..at::XMM.start;
    let mut parts = vec![
        (at::X87_HEAD.start, &head[..]),
        (to_sse.start, &image[to_sse]),
    ];
    if machine.sregs.cr4 & control::CR4_OSFXSR != 0 {
        parts.push((at::XMM.start, &image[at::XMM]));
    }
    area.write(&parts)?;
    Ok(Flow::Next)
}

/// `fxrstor`: x87 and SSE from memory; `#GP(0)` if MXCSR there has reserved bits.
pub(super) fn fxrstor(
    machine: &mut Machine,
    instruction: &Instruction,
    wide: bool,
) -> Result<Flow, Stop> {
    x87::available(machine)?;
    let mut fpu = machine.processor.fpu()?;
    let mut area = Area::new(machine, instruction, ALIGNMENT, Access::Read)?;
    let mut components = fpu.components() | X87;
    read_x87(&mut area, &mut fpu, wide)?;
    if machine.sregs.cr4 & control::CR4_OSFXSR != 0 {
        let mut mxcsr = [0; 4];
        area.read(at::MXCSR, &mut mxcsr)?;
        let mxcsr = u32::from_le_bytes(mxcsr);
        if mxcsr & !mxcsr_mask() != 0 {
            return Err(Exception::protection().into());
        }
        fpu.set_mxcsr(mxcsr);
        area.read(at::XMM.start, &mut fpu.bytes_mut()[at::XMM])?;
        components |= SSE;
    }
    fpu.set_components(components);
    machine.set_fpu(fpu);
    Ok(Flow::Next)
}

/// `stmxcsr m32`.
pub(super) fn stmxcsr(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    sse::available(machine)?;
    let mxcsr = machine.fpu()?.mxcsr();
    machine.write(instruction, 0, false, mxcsr.into())?;
    Ok(Flow::Next)
}

/// `ldmxcsr m32`; `#GP(0)` at reserved bits.
pub(super) fn ldmxcsr(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    sse::available(machine)?;
    let mxcsr = machine.read(instruction, 0, false)? as u32;
    if mxcsr & !mxcsr_mask() != 0 {
        return Err(Exception::protection().into());
    }
    machine.fpu_mut()?.set_mxcsr(mxcsr);
    Ok(Flow::Next)
}
