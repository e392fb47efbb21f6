//! Kernels' instructions: what they check and what they change.

use super::{Ram, identity_map, long_mode};
use crate::fallback::fpu::Fpu;
use crate::fallback::machine::{Exception, Flow, Machine, Processor, Stop, control, flags};
use crate::fallback::{dispatch, fetch};

const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x26]; // xsave64 [rsi]
pub(super) const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2e]; // xrstor64 [rsi]
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x06]; // fxsave64 [rsi]
pub(super) const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0e]; // fxrstor64 [rsi]
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16]; // ldmxcsr [rsi]
const XGETBV: &[u8] = &[0x0f, 0x01, 0xd0];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
const RDFSBASE: &[u8] = &[0xf3, 0x48, 0x0f, 0xae, 0xc0]; // rdfsbase rax
const WRGSBASE: &[u8] = &[0xf3, 0x48, 0x0f, 0xae, 0xd8]; // wrgsbase rax
const SYSRETQ: &[u8] = &[0x48, 0x0f, 0x07];
const SYSRET: &[u8] = &[0x0f, 0x07];

pub(super) fn ram() -> Ram {
    let ram = Ram::new(0x20_0000);
    identity_map(&ram);
    ram
}

/// A machine with XSAVE on.
fn machine(ram: &Ram) -> Machine<'_> {
    let mut machine = long_mode(ram);
    machine.sregs.cr4 |= control::CR4_OSXSAVE;
    machine.regs.rax = u64::MAX;
    machine.regs.rdx = u64::MAX;
    machine
}

pub(super) fn execute(machine: &mut Machine, bytes: &[u8]) -> Result<Flow, Stop> {
    let fetched = fetch::decode(machine, bytes)?;
    dispatch::execute(machine, &fetched.decoded)
}

fn raises(exception: Exception) -> Result<Flow, Stop> {
    Err(exception.into())
}

#[test]
fn a_save_whose_second_page_faults_writes_nothing() {
    let ram = ram();
    ram.set_entry(0x4000 + 8 * 0x101, 0);
    // The header ends the first page; AVX is in the second.
    let area = 0x10_1000 - 576;
    ram.put(area, &[0xaa; 576]);
    ram.put(area + 512, &[0; 64]);
    let mut machine = machine(&ram);
    machine.regs.rsi = area;
    let expected = raises(Exception::page_fault(0x10_1000, 2));
    assert_eq!(execute(&mut machine, XSAVE64), expected);
    assert_eq!(ram.get(area), [0xaa; 512]);
    assert_eq!(ram.get(area + 512), [0; 64]);
    // Without AVX that page is not touched.
    machine.regs.rax = 3;
    assert_eq!(execute(&mut machine, XSAVE64), Ok(Flow::Next));
}

#[test]
fn a_restore_whose_second_page_faults_changes_nothing() {
    let ram = ram();
    ram.set_entry(0x4000 + 8 * 0x101, 0);
    let area = 0x10_1000 - 576;
    ram.put(area + 512, &[7]);
    let mut machine = machine(&ram);
    machine.regs.rsi = area;
    let expected = raises(Exception::page_fault(0x10_1000, 0));
    assert_eq!(execute(&mut machine, XRSTOR64), expected);
    assert!(machine.changed_fpu().is_none());
    // AVX that is to be reset is not read.
    ram.put(area + 512, &[3]);
    assert_eq!(execute(&mut machine, XRSTOR64), Ok(Flow::Next));
}

#[test]
fn save_areas_must_be_aligned_canonical_and_allowed() {
    let ram = ram();
    let mut machine = machine(&ram);
    for (bytes, misaligned) in [
        (XSAVE64, 0x10_0020),
        (XRSTOR64, 0x10_0020),
        (FXSAVE64, 0x10_0008),
        (FXRSTOR64, 0x10_0008),
        (XSAVE64, 0x7fff_ffff_ffc0),
        (FXSAVE64, 0x8000_0000_0000),
    ] {
        machine.regs.rsi = misaligned;
        let expected = raises(Exception::protection());
        assert_eq!(execute(&mut machine, bytes), expected, "{misaligned:#x}");
    }
    machine.regs.rsi = 0x10_0000;
    machine.sregs.cr0 |= control::CR0_TS;
    for bytes in [XSAVE64, XRSTOR64, FXSAVE64, FXRSTOR64, LDMXCSR] {
        let expected = raises(Exception::fpu_not_available());
        assert_eq!(execute(&mut machine, bytes), expected, "{bytes:02x?}");
    }
    machine.sregs.cr4 &= !control::CR4_OSXSAVE;
    for bytes in [XSAVE64, XRSTOR64, XGETBV, XSETBV] {
        let expected = raises(Exception::invalid_opcode());
        assert_eq!(execute(&mut machine, bytes), expected, "{bytes:02x?}");
    }
}

#[test]
fn reserved_bits_of_mxcsr_raise_protection() {
    let ram = ram();
    let mut machine = machine(&ram);
    machine.regs.rsi = 0x10_0000;
    ram.put(0x10_0000, &[0, 0, 0, 0x80]);
    ram.put(0x10_0018, &[0, 0, 0, 0x80]);
    for bytes in [LDMXCSR, FXRSTOR64] {
        let expected = raises(Exception::protection());
        assert_eq!(execute(&mut machine, bytes), expected, "{bytes:02x?}");
        assert!(machine.changed_fpu().is_none());
    }
}

#[test]
fn xcr0_is_read_by_all_and_set_by_the_supervisor() {
    let ram = ram();
    let mut machine = machine(&ram);
    machine.regs.rcx = 0;
    assert_eq!(execute(&mut machine, XGETBV), Ok(Flow::Next));
    assert_eq!((machine.regs.rdx, machine.regs.rax), (0, 7));
    assert_eq!(execute(&mut machine, XSETBV), Ok(Flow::Next));
    let refused = raises(Exception::protection());
    machine.regs.rax = 5;
    assert_eq!(execute(&mut machine, XSETBV), refused);
    machine.regs.rax = 7;
    machine.sregs.ss.dpl = 3;
    assert_eq!(execute(&mut machine, XSETBV), refused);
    machine.regs.rcx = 2;
    assert_eq!(execute(&mut machine, XGETBV), refused);
}

#[test]
fn segment_bases_are_read_and_written_if_cr4_allows() {
    let ram = ram();
    let mut machine = machine(&ram);
    let expected = raises(Exception::invalid_opcode());
    assert_eq!(execute(&mut machine, RDFSBASE), expected);
    machine.sregs.cr4 |= control::CR4_FSGSBASE;
    machine.sregs.fs.base = 0x1234_5678_9abc;
    assert_eq!(execute(&mut machine, RDFSBASE), Ok(Flow::Next));
    assert_eq!(machine.regs.rax, 0x1234_5678_9abc);
    assert_eq!(execute(&mut machine, WRGSBASE), Ok(Flow::Next));
    assert_eq!(machine.sregs.gs.base, 0x1234_5678_9abc);
    machine.regs.rax = 1 << 63;
    let expected = raises(Exception::protection());
    assert_eq!(execute(&mut machine, WRGSBASE), expected);
}

/// A vCPU with system calls set up as Linux does it.
struct Linux;

pub(super) const LSTAR: u64 = 0xffff_ffff_8100_0000;

impl Processor for Linux {
    fn fpu(&self) -> Result<Fpu, Stop> {
        Ok(Fpu::initial())
    }

    fn xcr0(&self) -> Result<u64, Stop> {
        Ok(7)
    }

    fn set_xcr0(&self, _: u64) -> Result<(), Stop> {
        unreachable!("no instruction here sets XCR0")
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>, Stop> {
        let value = |&index: &u32| match index {
            0xc000_0081 => 0x0023_0010_0000_0000,
            0xc000_0082 => LSTAR,
            0xc000_0084 => 0x25_7fd5,
            _ => unreachable!("no instruction here reads MSR {index:#x}"),
        };
        Ok(indices.iter().map(value).collect())
    }
}

pub(super) fn linux(ram: &Ram) -> Machine<'_> {
    let mut machine = machine(ram);
    machine.processor = &Linux;
    machine.sregs.efer |= control::EFER_SCE;
    machine
}

#[test]
fn sysret_goes_to_user_code_of_64_or_32_bits() {
    let ram = ram();
    for (bytes, rip, cs, long) in [
        (SYSRETQ, 0x1_2345_6789, 0x33, 1),
        (SYSRET, 0x2345_6789, 0x23, 0),
    ] {
        let mut machine = linux(&ram);
        machine.regs.rcx = 0x1_2345_6789;
        machine.regs.r11 = u64::MAX;
        assert_eq!(execute(&mut machine, bytes), Ok(Flow::Jump));
        assert_eq!(machine.regs.rip, rip);
        assert_eq!(machine.regs.rflags, 0x3c_7fd7);
        let sregs = &machine.sregs;
        assert_eq!(
            (sregs.cs.selector, sregs.cs.l, sregs.cs.db),
            (cs, long, 1 - long)
        );
        assert_eq!(
            (sregs.ss.selector, sregs.cs.dpl, sregs.ss.dpl),
            (0x2b, 3, 3)
        );
    }
}

#[test]
fn sysret_is_refused_to_users_without_sce_and_to_no_address() {
    let ram = ram();
    let mut machine = linux(&ram);
    machine.regs.rcx = 1 << 47;
    let protection = raises(Exception::protection());
    assert_eq!(execute(&mut machine, SYSRETQ), protection);
    machine.sregs.ss.dpl = 3;
    machine.regs.rcx = 0x1000;
    assert_eq!(execute(&mut machine, SYSRETQ), protection);
    machine.sregs.efer &= !control::EFER_SCE;
    let expected = raises(Exception::invalid_opcode());
    assert_eq!(execute(&mut machine, SYSRETQ), expected);
}

#[test]
fn verw_and_verr_look_at_the_descriptor() {
    let ram = ram();
    let mut machine = machine(&ram);
    (machine.sregs.gdt.base, machine.sregs.gdt.limit) = (0x10_0000, 0x37);
    let descriptors: [u64; 7] = [
        0x00cf_9300_0000_ffff, // never used: selector 0
        0x00cf_9300_0000_ffff, // data
        0x00cf_9100_0000_ffff, // data, read only
        0x00af_9b00_0000_ffff, // code, readable
        0x00af_9900_0000_ffff, // code
        0x0000_8b00_0000_0067, // task state
        0x00cf_1300_0000_ffff, // data, not present
    ];
    for (i, descriptor) in descriptors.into_iter().enumerate() {
        ram.set_entry(0x10_0000 + 8 * i as u64, descriptor);
    }
    let mut zf = |selector: u64, bytes: &[u8]| {
        machine.regs.rax = selector;
        assert_eq!(execute(&mut machine, bytes), Ok(Flow::Next));
        machine.regs.rflags & flags::ZF != 0
    };
    let verr = |selector| (selector, [0x0f, 0x00, 0xe0]);
    let verw = |selector| (selector, [0x0f, 0x00, 0xe8]);
    for ((selector, bytes), usable) in [
        (verr(0), false),
        (verw(3), false),
        (verr(0x08), true),
        (verw(0x08), true),
        (verw(0x0b), false), // asked for with CPL3's rights
        (verr(0x10), true),
        (verw(0x10), false),
        (verr(0x18), true),
        (verw(0x18), false),
        (verr(0x20), false),
        (verr(0x28), false),
        (verr(0x30), true), // whether it is present is not asked
        (verr(0x38), false),
        (verr(0x0c), false), // there is no LDT
        (verw(0xfff8), false),
    ] {
        assert_eq!(zf(selector, &bytes), usable, "{selector:#x}, {bytes:02x?}");
    }
}
