//! What finished instructions cost, in processor time, printed (`--nocapture`); and that loops of them come
//! out right.

use std::time::Duration;

use crate::machine::{Machine, has_hardware_virtualization, machine, run};

const ROUNDS: u32 = 2000;
const AREA: u64 = 0x2_0000;

/// Runs `body` so often, then `out 0xf4, edx`.
struct Loop {
    machine: Machine,
    /// Instructions that the monitor finished.
    finished: u32,
    /// EDX at the end.
    said: u32,
    /// Processor time of one round.
    each: Duration,
}

impl Loop {
    fn run(before: &[u8], body: &[u8]) -> Self {
        let mut code = vec![0xb9]; // mov ecx, ROUNDS
        code.extend(ROUNDS.to_le_bytes());
        code.extend(before);
        code.extend(body);
        code.extend([0xff, 0xc9]); // dec ecx
        code.extend([0x75, (-(body.len() as i8) - 4) as u8]); // jnz body
        code.extend([0x89, 0xd0, 0xe7, 0xf4]); // mov eax, edx; out 0xf4, eax
        let mut machine = machine(&code, &[]);
        let started = thread_time();
        let (finished, said) = run(&mut machine);
        Self {
            machine,
            finished,
            said,
            each: (thread_time() - started) / ROUNDS,
        }
    }
}

/// Processor time of this thread, in user and kernel mode.
fn thread_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is writable.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(rc, 0);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[test]
fn a_loop_of_finished_instructions_ends_with_the_right_sum() {
    let body = [
        0xf3, 0x48, 0x0f, 0xb8, 0xc1, // popcnt rax, rcx
        0x48, 0x01, 0xc2, // add rdx, rax
    ];
    let done = Loop::run(&[0x31, 0xd2], &body); // xor edx, edx
    assert_eq!(done.said, (1..=ROUNDS).map(u32::count_ones).sum::<u32>());
    println!("popcnt, add, dec, jnz: {:?} a round", done.each);
    assert!(
        done.finished == ROUNDS || has_hardware_virtualization(),
        "neither VMX nor SVM, and yet the monitor finished {} of {ROUNDS} popcnt",
        done.finished
    );
}

#[test]
fn a_loop_of_saves_and_restores_keeps_the_state() {
    let before = [
        0xbf, 0, 0, 2, 0, // mov edi, AREA
        0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff, // mov rax, -1
        0x48, 0xc7, 0xc2, 0xff, 0xff, 0xff, 0xff, // mov rdx, -1
        0x66, 0x48, 0x0f, 0x6e, 0xc7, // movq xmm0, rdi
    ];
    let body = [
        0x48, 0x0f, 0xae, 0x27, // xsave64 [rdi]
        0x48, 0x0f, 0xae, 0x2f, // xrstor64 [rdi]
    ];
    let done = Loop::run(&before, &body);
    println!("xsave64, xrstor64, dec, jnz: {:?} a round", done.each);
    assert_eq!(done.machine.ram.wide(AREA + 160), AREA.into());
    let held = done.machine.vcpu.get_xsave().unwrap().region;
    assert_eq!(held[40..44], [AREA as u32, 0, 0, 0], "xmm0");
}
