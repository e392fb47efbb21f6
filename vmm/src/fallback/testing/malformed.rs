//! Save areas that XRSTOR refuses.

use std::arch::asm;

use super::cpu::Random;
use super::fpu::{Area, Case, Held, enabled, left_alone, machine_for, ram, random_case};
use crate::fallback::fpu::at;
use crate::fallback::machine::{Exception, Flow};
use crate::fallback::{dispatch, fetch};

/// Whether XRSTOR of the case's operand faults on the CPU; tried in a child of this process.
fn faults_on_cpu(case: &Case) -> bool {
    // SAFETY: the child executes one instruction and leaves, or dies of it.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: what the instruction changes the child never uses: `_exit` comes next.
        unsafe {
            asm!(
                "xrstor64 [rdi]",
                in("rdi") &raw const *case.target,
                in("eax") case.mask as u32,
                in("edx") (case.mask >> 32) as u32,
            );
            libc::_exit(0);
        }
    }
    assert!(child > 0, "fork failed");
    let mut status = 0;
    // SAFETY: the status is writable.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(waited, child);
    assert!(status == 0 || libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);
    status != 0
}

/// Breaks a header at random, in one of the ways that matter, or not at all.
fn damage(case: &mut Case, random: &mut Random) {
    let any_bit = |random: &mut Random| (1_u64 << (random.next() % 64)) & !left_alone();
    let room = match random.next() % 4 {
        0 => 0,
        1 => any_bit(random),
        2 => 1 << 63 | enabled(),
        _ => 1 << 63 | enabled() & random.next() | any_bit(random),
    };
    case.target.put(520, &room.to_le_bytes());
    if random.next() & 1 == 0 {
        let present = random.next() & enabled() & room | any_bit(random);
        case.target.put(at::XSTATE_BV, &present.to_le_bytes());
    }
    if random.next().is_multiple_of(3) {
        let byte = 528 + (random.next() % 48) as usize;
        case.target.put(byte, &[1 << (random.next() % 8)]);
    }
    if random.next().is_multiple_of(3) {
        let reserved = 1_u32 << (16 + random.next() % 16);
        case.target.put(at::MXCSR, &reserved.to_le_bytes());
    }
}

#[test]
fn malformed_areas_fault_where_they_fault_on_the_cpu() {
    let ram = ram();
    let mut random = Random::new();
    let mut faulted = 0;
    for round in 0..600 {
        let mut case = random_case(&mut random);
        damage(&mut case, &mut random);
        let held = Held(Area::zero());
        let mut machine = machine_for(&ram, &held, &case);
        let xrstor64 = &[0x48, 0x0f, 0xae, 0x2f];
        let Ok(fetched) = fetch::decode(&machine, xrstor64) else {
            panic!("xrstor64 does not decode");
        };
        let expected = match faults_on_cpu(&case) {
            true => Err(Exception::protection().into()),
            false => Ok(Flow::Next),
        };
        faulted += u32::from(expected.is_err());
        let header = &case.target.0[at::HEADER];
        let flow = dispatch::execute(&mut machine, &fetched.decoded);
        let mask = case.mask;
        assert_eq!(flow, expected, "round {round}, mask {mask:#x}, {header:x?}");
        let changed = machine.changed_fpu().is_some();
        assert_eq!(changed, expected.is_ok(), "a fault changes nothing");
    }
    assert!((100..500).contains(&faulted), "{faulted} of 600 faulted");
}
