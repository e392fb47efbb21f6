//! XSAVE, XSAVEOPT, XSAVEC, XSAVES.

use iced_x86::Instruction;

use super::layout::Component;
use super::{ALIGNMENT, COMPACTED, Components, Form, Layout, components};
use crate::fallback::area::Area;
use crate::fallback::fpu::{AVX, Fpu, SSE, X87, at};
use crate::fallback::machine::{Machine, Stop};
use crate::fallback::physical::Access;

/// Writes components to the save area in memory.
///
/// Components in their initial state are written by XSAVE only: the others may leave them out. None
/// leaves out what is unchanged since it was restored, which they may too.
pub(in crate::fallback) fn save(
    machine: &Machine,
    instruction: &Instruction,
    form: Form,
    wide: bool,
    layout: &Layout,
) -> Result<(), Stop> {
    let Components { requested, .. } = components(machine, form, layout)?;
    let fpu = machine.fpu()?;
    let in_use = fpu.components();
    let compacted = matches!(form, Form::Compacted | Form::Supervisor);
    let written = match form {
        Form::Plain => requested,
        _ => requested & in_use,
    };

    let mut area = Area::new(machine, instruction, ALIGNMENT, Access::Write)?;
    let mut header = [0; 16];
    let header = if compacted {
        header[..8].copy_from_slice(&(requested & in_use).to_le_bytes());
        header[8..].copy_from_slice(&(requested | COMPACTED).to_le_bytes());
        &header[..]
    } else {
        area.read(at::XSTATE_BV, &mut header[..8])?;
        let old = u64::from_le_bytes(std::array::from_fn(|i| header[i]));
        let new = old & !requested | requested & in_use;
        header[..8].copy_from_slice(&new.to_le_bytes());
        &header[..8]
    };

    let image = fpu.bytes();
    let head = x87_head(fpu, wide);
    let mut parts: Vec<(usize, &[u8])> = Vec::with_capacity(16);
    if written & X87 != 0 {
        parts.push((at::X87_HEAD.start, &head));
        parts.push((at::X87_REGISTERS.start, &image[at::X87_REGISTERS]));
    }
    // MXCSR belongs to SSE, and in the standard format to AVX as well; it is always written.
    let with_mxcsr = match form {
        Form::Plain | Form::Optimised => requested & (SSE | AVX) != 0,
        Form::Compacted | Form::Supervisor => written & SSE != 0,
    };
    if with_mxcsr {
        parts.push((at::MXCSR, &image[at::MXCSR..at::X87_REGISTERS.start]));
    }
    if written & SSE != 0 {
        parts.push((at::XMM.start, &image[at::XMM]));
    }
    let mut extended = |(component, offset): (Component, usize)| {
        if written & component.bit() != 0 {
            parts.push((offset, &image[component.offset..][..component.len]));
        }
    };
    match compacted {
        true => layout.compacted(requested).for_each(&mut extended),
        false => layout.standard(requested).for_each(&mut extended),
    }
    parts.push((at::XSTATE_BV, header));
    area.write(&parts)
}

/// The x87 part before the registers: with 64-bit pointers (`wide`), or with 32-bit ones and selectors,
/// of which processors say 0.
pub(in crate::fallback) fn x87_head(fpu: &Fpu, wide: bool) -> [u8; 24] {
    let mut head = [0; 24];
    head.copy_from_slice(&fpu.bytes()[at::X87_HEAD]);
    if !wide {
        head[at::INSTRUCTION_POINTER + 4..at::DATA_POINTER].fill(0);
        head[at::DATA_POINTER + 4..].fill(0);
    }
    head
}
