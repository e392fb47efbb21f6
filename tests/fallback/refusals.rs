//! What the monitor does not finish, and what it raises instead of finishing it.

use gmem_vmm::fallback::Unsupported;

use crate::machine::{CODE, DIRECTORY, UNMAPPED, finish, finish_at_rip, machine};

#[test]
fn an_instruction_that_is_not_covered_is_named_with_its_bytes_and_its_place() {
    let mut machine = machine(&[], &[]);
    let before = machine.vcpu.get_regs().unwrap();
    let error = finish(&mut machine, &[0x66, 0x0f, 0x38, 0xdc, 0xc1, 0x90]).unwrap_err();
    let message = error.to_string();
    for part in [
        "`aesenc`",
        "66 0f 38 dc c1)",
        "rip 0x10000, CPL 0",
        "VMX or SVM",
    ] {
        assert!(message.contains(part), "{part} in: {message}");
    }
    assert_eq!(machine.vcpu.get_regs().unwrap(), before);
}

#[test]
fn an_operand_outside_ram_is_reported_and_changes_nothing() {
    let mut machine = machine(&[], &[]);
    // The page at 2 MiB maps the guest-physical address 1 GiB, where there is no memory.
    machine.ram.put(DIRECTORY + 8, &[0x4000_0083]);
    let mut before = machine.vcpu.get_regs().unwrap();
    before.rsi = UNMAPPED + 0x120;
    machine.vcpu.set_regs(&before).unwrap();
    let error = finish(&mut machine, &[0x0f, 0x10, 0x06]).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(
            error,
            Unsupported::NotRam {
                gpa: 0x4000_0120,
                ..
            }
        ),
        "{message}"
    );
    assert!(message.contains("`movups` (bytes 0f 10 06)"), "{message}");
    assert_eq!(machine.vcpu.get_regs().unwrap(), before);
}

#[test]
fn a_fetch_from_a_page_that_is_not_there_is_a_page_fault() {
    let mut machine = machine(&[], &[]);
    let mut regs = machine.vcpu.get_regs().unwrap();
    regs.rip = UNMAPPED;
    machine.vcpu.set_regs(&regs).unwrap();
    finish_at_rip(&mut machine).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!(
        (exception.injected, exception.nr, exception.error_code),
        (1, 14, 0x10)
    );
    assert_eq!(machine.vcpu.get_sregs().unwrap().cr2, UNMAPPED);
}

#[test]
fn an_invalid_instruction_is_an_invalid_opcode_exception() {
    let mut machine = machine(&[], &[]);
    // `lock` is not allowed before popcnt.
    finish(&mut machine, &[0xf0, 0xf3, 0x0f, 0xb8, 0xc0]).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!(
        (exception.injected, exception.nr, exception.has_error_code),
        (1, 6, 0)
    );
    assert_eq!(machine.vcpu.get_regs().unwrap().rip, CODE);
}

#[test]
fn a_single_step_ends_with_a_debug_exception() {
    let mut machine = machine(&[], &[]);
    let mut regs = machine.vcpu.get_regs().unwrap();
    regs.rflags |= 1 << 8;
    machine.vcpu.set_regs(&regs).unwrap();
    finish(&mut machine, &[0x66, 0x0f, 0xef, 0xc0]).unwrap();
    let exception = machine.vcpu.get_vcpu_events().unwrap().exception;
    assert_eq!((exception.injected, exception.nr), (1, 1));
    assert_ne!(machine.vcpu.get_debug_regs().unwrap().dr6 & 1 << 14, 0);
    assert_eq!(machine.vcpu.get_regs().unwrap().rip, CODE + 4);
}
