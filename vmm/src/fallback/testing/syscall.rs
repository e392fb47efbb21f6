//! System calls that KVM loses are found again, and nothing else is taken for one.

use super::Ram;
use super::system::{FXRSTOR64, LSTAR, XRSTOR64, execute, linux, ram};
use crate::fallback::machine::{Flow, Machine, control, flags};

const CLAC: &[u8] = &[0x0f, 0x01, 0xca];
const HANDLER: u64 = 0x10_0000;
const IDT: u64 = 0x11_0000;
const FRAME: u64 = 0x12_0000;
const NOP: [u8; 3] = [0x0f, 0x1f, 0x00];

/// A machine whose page-fault handler begins with `code`.
fn with_handler<'a>(ram: &'a Ram, code: &[u8]) -> Machine<'a> {
    ram.put(HANDLER, code);
    let gate = [
        HANDLER & 0xffff | 0x10 << 16 | 0x8e << 40 | HANDLER >> 16 << 48,
        HANDLER >> 32,
    ];
    ram.set_entry(IDT + 14 * 16, gate[0]);
    ram.set_entry(IDT + 14 * 16 + 8, gate[1]);
    let mut machine = linux(ram);
    (machine.sregs.idt.base, machine.sregs.idt.limit) = (IDT, 0xfff);
    machine.regs.rsi = 0x13_0000;
    machine
}

#[test]
fn a_restore_puts_clac_into_the_room_that_linux_leaves_for_it() {
    let nop = [0x90, 0x90, 0x90, 0xfc];
    let behind_endbr = [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x00, 0xfc];
    let done_behind_endbr = [0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xca, 0xfc];
    let other = [0x0f, 0x1f, 0x40, 0x00, 0xfc];
    for (before, after) in [
        (
            &[NOP[0], NOP[1], NOP[2], 0xfc][..],
            &[0x0f, 0x01, 0xca, 0xfc][..],
        ),
        (&nop, &[0x0f, 0x01, 0xca, 0xfc]),
        (&behind_endbr, &done_behind_endbr),
        (&other, &other),
    ] {
        for restore in [XRSTOR64, FXRSTOR64] {
            let ram = ram();
            let mut machine = with_handler(&ram, before);
            assert_eq!(execute(&mut machine, restore), Ok(Flow::Next));
            assert_eq!(&ram.get::<8>(HANDLER)[..after.len()], after);
        }
    }
}

#[test]
fn a_table_that_is_none_is_left_alone() {
    let ram = ram();
    let mut machine = with_handler(&ram, &NOP);
    for (base, limit) in [
        (IDT, 0xdf),
        (1 << 47, 0xfff),
        (u64::MAX - 0x80, 0xfff),
        (0, 0xfff),
    ] {
        (machine.sregs.idt.base, machine.sregs.idt.limit) = (base, limit);
        assert_eq!(execute(&mut machine, XRSTOR64), Ok(Flow::Next));
        assert_eq!(ram.get(HANDLER), NOP);
    }
}

/// What the CPU pushes for a page fault, by error code and RIP.
fn push_frame(ram: &Ram, machine: &mut Machine, error: u64, rip: u64, cs: u64) {
    for (i, word) in [error, rip, cs, 0x1_0002, 0x7fff_0000, 0x2b]
        .into_iter()
        .enumerate()
    {
        ram.set_entry(FRAME + 8 * i as u64, word);
    }
    machine.regs.rsp = FRAME;
    machine.regs.rip = HANDLER;
}

#[test]
fn a_lost_system_call_is_made_one() {
    let ram = ram();
    let mut machine = with_handler(&ram, CLAC);
    push_frame(&ram, &mut machine, 0x15, LSTAR, 0x33);
    // IOPL 3, VM and RF are what a program that jumped here would like to have.
    machine.regs.r11 = 0x3_3cd7;
    machine.regs.rcx = 0x40_0002;
    assert_eq!(execute(&mut machine, CLAC), Ok(Flow::Jump));
    let regs = &machine.regs;
    assert_eq!(
        (regs.rip, regs.rsp, regs.rcx),
        (LSTAR, 0x7fff_0000, 0x40_0002)
    );
    assert_eq!(regs.r11, 0xed7, "IF, and neither IOPL, VM nor RF");
    assert_eq!(regs.rflags, 2, "IA32_FMASK");
    let sregs = &machine.sregs;
    assert_eq!((sregs.cs.selector, sregs.cs.dpl, sregs.cs.l), (0x10, 0, 1));
    assert_eq!((sregs.ss.selector, sregs.ss.dpl), (0x18, 0));
}

#[test]
fn other_page_faults_go_on_as_if_the_clac_were_not_there() {
    let ram = ram();
    let mut machine = with_handler(&ram, CLAC);
    for (error, rip, cs) in [
        (0x14, 0x40_0000, 0x33),  // a page of code that is not there
        (0x15, LSTAR + 16, 0x33), // a jump into the kernel
        (0x15, LSTAR, 0x10),      // the kernel itself
        (0x05, LSTAR, 0x33),      // not a fetch
    ] {
        push_frame(&ram, &mut machine, error, rip, cs);
        let before = machine.regs;
        assert_eq!(execute(&mut machine, CLAC), Ok(Flow::Next));
        assert_eq!(machine.regs, before, "{error:#x}, {rip:#x}, {cs:#x}");
    }
    // A guest with SMAP has put it there itself.
    machine.sregs.cr4 |= control::CR4_SMAP;
    machine.regs.rflags |= flags::AC;
    assert_eq!(execute(&mut machine, CLAC), Ok(Flow::Next));
    assert_eq!(machine.regs.rflags & flags::AC, 0);
}
