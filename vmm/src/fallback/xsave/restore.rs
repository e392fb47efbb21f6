//! XRSTOR and XRSTORS.

use iced_x86::Instruction;

use super::layout::Component;
use super::{ALIGNMENT, COMPACTED, Components, Form, Layout, components};
use crate::fallback::area::Area;
use crate::fallback::fpu::{AVX, Fpu, INITIAL_MXCSR, SSE, X87, at, mxcsr_mask};
use crate::fallback::machine::{Exception, Machine, Stop};
use crate::fallback::physical::Access;

/// Loads components from the save area in memory; `#GP(0)` if that is malformed.
pub(in crate::fallback) fn restore(
    machine: &mut Machine,
    instruction: &Instruction,
    form: Form,
    wide: bool,
    layout: &Layout,
) -> Result<(), Stop> {
    let Components { requested, allowed } = components(machine, form, layout)?;
    let mut area = Area::new(machine, instruction, ALIGNMENT, Access::Read)?;
    let mut header = [0; 64];
    area.read(at::HEADER.start, &mut header)?;
    let header = Header::check(&header, form, allowed)?;
    let restored = restored(machine, &mut area, &header, requested, wide, layout)?;
    machine.set_fpu(restored);
    Ok(())
}

/// What the header of a well-formed area says.
struct Header {
    /// Components that are in the area; others are to be initialised.
    present: u64,
    /// Components that a compacted area has room for; `None` if it is in the standard format.
    compacted: Option<u64>,
}

impl Header {
    fn check(bytes: &[u8; 64], form: Form, allowed: u64) -> Result<Self, Exception> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let (present, room) = (word(0), word(8));
        let zero = |mut reserved: std::slice::Iter<u8>| reserved.all(|&byte| byte == 0);
        let valid = if room & COMPACTED != 0 {
            let room = room & !COMPACTED;
            room & !allowed == 0 && present & !room == 0 && zero(bytes[16..].iter())
        } else {
            let standard = form != Form::Supervisor;
            standard && present & !allowed == 0 && zero(bytes[8..24].iter())
        };
        if !valid {
            return Err(Exception::protection());
        }
        Ok(Self {
            present,
            compacted: (room & COMPACTED != 0).then_some(room & !COMPACTED),
        })
    }
}

/// The state of `machine` with the components `requested` replaced by those of `area`.
fn restored(
    machine: &Machine,
    area: &mut Area,
    header: &Header,
    requested: u64,
    wide: bool,
    layout: &Layout,
) -> Result<Fpu, Stop> {
    // Where all is replaced, as kernels do it, the old state is not worth a request.
    let mut fpu = match layout.all() & !requested {
        0 => Fpu::initial(),
        _ => machine.processor.fpu()?,
    };
    let present = header.present & requested;
    let mut components = fpu.components() & !requested | present;

    if requested & X87 != 0 {
        fpu.reset(X87);
    }
    if present & X87 != 0 {
        read_x87(area, &mut fpu, wide)?;
    }
    // MXCSR belongs to SSE; in the standard format it is always in the area, and AVX brings it too.
    let mxcsr = match header.compacted {
        None if requested & (SSE | AVX) != 0 => Some(read_mxcsr(area)?),
        Some(_) if present & SSE != 0 => Some(read_mxcsr(area)?),
        Some(_) if requested & SSE != 0 => Some(INITIAL_MXCSR),
        _ => None,
    };
    if requested & SSE != 0 {
        fpu.reset(SSE);
    }
    if present & SSE != 0 {
        area.read(at::XMM.start, &mut fpu.bytes_mut()[at::XMM])?;
    }
    if let Some(mxcsr) = mxcsr {
        fpu.set_mxcsr(mxcsr);
    }
    if fpu.mxcsr() != INITIAL_MXCSR {
        components |= SSE;
    }

    let mut extended = |(component, offset): (Component, usize)| {
        if requested & component.bit() == 0 {
            return Ok(());
        }
        let target = &mut fpu.bytes_mut()[component.offset..][..component.len];
        match present & component.bit() {
            0 => {
                target.fill(0);
                Ok(())
            }
            _ => area.read(offset, target),
        }
    };
    match header.compacted {
        Some(room) => {
            layout.compacted(room).try_for_each(&mut extended)?;
            // What the area has no room for is initialised.
            layout
                .standard(requested & !room)
                .try_for_each(&mut extended)?;
        }
        None => layout.standard(requested).try_for_each(&mut extended)?,
    }
    fpu.set_components(components);
    Ok(fpu)
}

fn read_mxcsr(area: &mut Area) -> Result<u32, Stop> {
    let mut bytes = [0; 4];
    area.read(at::MXCSR, &mut bytes)?;
    let mxcsr = u32::from_le_bytes(bytes);
    match mxcsr & !mxcsr_mask() {
        0 => Ok(mxcsr),
        _ => Err(Exception::protection().into()),
    }
}

/// Reads the x87 part of a save area. `wide`: its pointers are of 64 bits, not of 32 with selectors.
pub(in crate::fallback) fn read_x87(
    area: &mut Area,
    fpu: &mut Fpu,
    wide: bool,
) -> Result<(), Stop> {
    let bytes = fpu.bytes_mut();
    area.read(at::X87_HEAD.start, &mut bytes[at::X87_HEAD])?;
    area.read(at::X87_REGISTERS.start, &mut bytes[at::X87_REGISTERS])?;
    if !wide {
        bytes[at::INSTRUCTION_POINTER + 4..at::DATA_POINTER].fill(0);
        bytes[at::DATA_POINTER + 4..at::X87_HEAD.end].fill(0);
    }
    // A register has 10 bytes; what follows is not loaded.
    for register in bytes[at::X87_REGISTERS].chunks_exact_mut(16) {
        register[10..].fill(0);
    }
    Ok(())
}
