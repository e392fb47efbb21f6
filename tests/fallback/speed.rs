//! What one finished instruction costs.

use crate::machine::{has_hardware_virtualization, machine, run};

#[test]
fn a_loop_of_finished_instructions_ends_with_the_right_sum() {
    const ROUNDS: u32 = 2000;
    let mut code = vec![0x31, 0xd2, 0xb9]; // xor edx, edx; mov ecx, ROUNDS
    code.extend(ROUNDS.to_le_bytes());
    code.extend([
        0xf3, 0x48, 0x0f, 0xb8, 0xc1, // again: popcnt rax, rcx
        0x48, 0x01, 0xc2, // add rdx, rax
        0xff, 0xc9, // dec ecx
        0x75, 0xf4, // jnz again
        0x89, 0xd0, // mov eax, edx
        0xe7, 0xf4, // out 0xf4, eax
    ]);
    let mut machine = machine(&code, &[]);
    let started = std::time::Instant::now();
    let (finished, sum) = run(&mut machine);
    let each = started.elapsed() / ROUNDS;
    assert_eq!(sum, (1..=ROUNDS).map(u32::count_ones).sum::<u32>());
    println!("{finished} instructions finished; one round of the loop takes {each:?}");
    assert!(
        finished == ROUNDS || has_hardware_virtualization(),
        "neither VMX nor SVM, and yet the monitor finished {finished} of {ROUNDS} popcnt"
    );
}
