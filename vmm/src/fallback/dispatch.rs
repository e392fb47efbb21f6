//! From an instruction to the code that does it.

use iced_x86::{Instruction, Mnemonic, Register};

use super::machine::{Exception, Flow, Machine, Stop, flags};
use super::xsave::{Form, Layout};
use super::{bits, fxsave, integer, sse, syscall, system, x87, xsave};

/// Does `instruction`. On `Err` guest memory is as it was; `machine` may not be, and is to be dropped.
pub(super) fn execute(machine: &mut Machine, instruction: &Instruction) -> Result<Flow, Stop> {
    use Mnemonic::*;
    match instruction.mnemonic() {
        Int3 => Ok(Flow::Trap(Exception::BREAKPOINT)),
        Ud0 | Ud1 | Ud2 => Err(Exception::invalid_opcode().into()),

        Popcnt => integer::popcnt(machine, instruction),
        Cmpxchg16b => integer::cmpxchg16b(machine, instruction),
        Adcx => integer::add_with(machine, instruction, flags::CF),
        Adox => integer::add_with(machine, instruction, flags::OF),
        Mulx => integer::mulx(machine, instruction),
        Movbe => integer::movbe(machine, instruction),
        Crc32 => integer::crc32(machine, instruction),
        Rdrand | Rdseed => integer::random(machine, instruction),

        Wait => x87::fwait(machine),
        Fnclex => x87::fnclex(machine),
        Fninit => x87::fninit(machine),
        Emms => x87::emms(machine),
        Fnstcw => x87::fnstcw(machine, instruction),
        Fnstsw => x87::fnstsw(machine, instruction),
        Fldcw => x87::fldcw(machine, instruction),
        Fild => x87::fild(machine, instruction),

        Fxsave => fxsave::fxsave(machine, instruction, false),
        Fxsave64 => fxsave::fxsave(machine, instruction, true),
        Fxrstor => fxrstor(machine, instruction, false),
        Fxrstor64 => fxrstor(machine, instruction, true),
        Stmxcsr => fxsave::stmxcsr(machine, instruction),
        Ldmxcsr => fxsave::ldmxcsr(machine, instruction),

        Xsave => save(machine, instruction, Form::Plain, false),
        Xsave64 => save(machine, instruction, Form::Plain, true),
        Xsaveopt => save(machine, instruction, Form::Optimised, false),
        Xsaveopt64 => save(machine, instruction, Form::Optimised, true),
        Xsavec => save(machine, instruction, Form::Compacted, false),
        Xsavec64 => save(machine, instruction, Form::Compacted, true),
        Xsaves => save(machine, instruction, Form::Supervisor, false),
        Xsaves64 => save(machine, instruction, Form::Supervisor, true),
        Xrstor => restore(machine, instruction, Form::Plain, false),
        Xrstor64 => restore(machine, instruction, Form::Plain, true),
        Xrstors => restore(machine, instruction, Form::Supervisor, false),
        Xrstors64 => restore(machine, instruction, Form::Supervisor, true),
        Xgetbv => xsave::xgetbv(machine),
        Xsetbv => xsave::xsetbv(machine),

        Stac => system::set_ac(machine, true),
        Clac => match syscall::enter(machine)? {
            Some(flow) => Ok(flow),
            None => system::set_ac(machine, false),
        },
        Rdfsbase => system::read_base(machine, instruction, Register::FS),
        Rdgsbase => system::read_base(machine, instruction, Register::GS),
        Wrfsbase => system::write_base(machine, instruction, Register::FS),
        Wrgsbase => system::write_base(machine, instruction, Register::GS),
        Sysret => system::sysret(machine, false),
        Sysretq => system::sysret(machine, true),
        Verr => system::verify(machine, instruction, false),
        Verw => system::verify(machine, instruction, true),
        Clflush | Clflushopt | Clwb => system::cache_line(machine, instruction),
        Wbinvd | Wbnoinvd => system::write_back(machine),

        // Hints, and orders that the exit to this monitor has already enforced.
        Nop | Fnop | Pause | Endbr64 | Endbr32 | Lfence | Mfence | Sfence | Serialize
        | Cldemote | Prefetch | Prefetchw | Prefetchwt1 | Prefetchnta | Prefetcht0 | Prefetcht1
        | Prefetcht2 => Ok(Flow::Next),

        _ => match bits::execute(machine, instruction) {
            Some(result) => result,
            None => sse::execute(machine, instruction),
        },
    }
}

fn save(
    machine: &mut Machine,
    instruction: &Instruction,
    form: Form,
    wide: bool,
) -> Result<Flow, Stop> {
    xsave::save(machine, instruction, form, wide, Layout::host())?;
    Ok(Flow::Next)
}

fn restore(
    machine: &mut Machine,
    instruction: &Instruction,
    form: Form,
    wide: bool,
) -> Result<Flow, Stop> {
    xsave::restore(machine, instruction, form, wide, Layout::host())?;
    syscall::prepare(machine);
    Ok(Flow::Next)
}

fn fxrstor(machine: &mut Machine, instruction: &Instruction, wide: bool) -> Result<Flow, Stop> {
    fxsave::fxrstor(machine, instruction, wide)?;
    syscall::prepare(machine);
    Ok(Flow::Next)
}
