//! vCPU threads on real KVM: the bundled guest's entry, and pause, resume and stop at any moment.

mod support;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use gmem_vmm::devices::DeviceConfig;
use gmem_vmm::kvm::exits::Cause;
use gmem_vmm::machine::{Config, Machine, Payload, Running};
use gmem_vmm::memory::ram::GuestRam;
use gmem_vmm::outcome::Reason;
use support::gmem::require_kvm;
use support::tiny_elf::{TinyElf, code};

/// Far more than a busy machine needs to interrupt a thread.
const LIMIT: Duration = Duration::from_secs(20);
/// Where the guests count.
const COUNTERS: u64 = 0x30_0000;

/// A machine of `cpus` vCPUs that enters `code` as it would the bundled guest.
fn machine(code: &[u8], cpus: usize) -> Machine {
    require_kvm();
    let image = TinyElf::new(code).pvh().build();
    let config = Config {
        memory: 16 << 20,
        cpus,
        plan: None,
        payload: Payload::Bundled {
            image: Box::leak(image.into_boxed_slice()),
            workload: "test".into(),
            extra: String::new(),
        },
        devices: DeviceConfig::default(),
    };
    Machine::build(&config, Box::new(std::io::sink())).unwrap()
}

/// lock incl 0x300000; mov 0x300000, %eax; cmp $count, %eax; jne back to the mov.
fn rendezvous(count: u8) -> Vec<u8> {
    vec![
        0xf0, 0xff, 0x04, 0x25, 0, 0, 0x30, 0, 0x8b, 0x04, 0x25, 0, 0, 0x30, 0, 0x83, 0xf8, count,
        0x75, 0xf4,
    ]
}

/// Each vCPU adds to a counter of its own for ever: 1: incq 0x300000(,%rdi,8); jmp 1b
fn count_forever() -> Vec<u8> {
    vec![0x48, 0xff, 0x04, 0xfd, 0, 0, 0x30, 0, 0xeb, 0xf6]
}

/// Writes to a port without a device for ever, so that exits are frequent: 1: incq 0x300000(,%rdi,8);
/// out %al, $0x80; jmp 1b
fn exit_forever() -> Vec<u8> {
    vec![
        0x48, 0xff, 0x04, 0xfd, 0, 0, 0x30, 0, 0xe6, 0x80, 0xeb, 0xf4,
    ]
}

fn counter(ram: &GuestRam, vcpu: u64) -> u64 {
    let mut bytes = [0; 8];
    ram.read(COUNTERS + 8 * vcpu, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Waits until each vCPU has counted beyond its own number: one may be far ahead of another.
fn wait_for_counts(running: &Running, above: &[u64]) {
    let deadline = Instant::now() + LIMIT;
    let counted = |vcpu: usize| counter(running.ram(), vcpu as u64);
    while (0..above.len()).any(|vcpu| counted(vcpu) <= above[vcpu]) {
        assert!(Instant::now() < deadline, "a vCPU does not run");
        thread::yield_now();
    }
}

fn wait_for_end(running: &Running) {
    let deadline = Instant::now() + LIMIT;
    while running.vcpus().first_end().is_none() {
        assert!(Instant::now() < deadline, "no vCPU ended");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn all_vcpus_of_the_bundled_guest_start_at_once_with_their_index() {
    // Meets the others, then reports its index plus 16: a verdict that only one of three can give first.
    let code = [
        rendezvous(3),
        // lea 16(%rdi), %eax; out %eax, $0xf4
        vec![0x8d, 0x47, 0x10, 0xe7, 0xf4],
    ]
    .concat();
    let running = machine(&code, 3).start().unwrap();
    wait_for_end(&running);
    let outcome = running.finish(None);
    assert!(
        matches!(outcome.reason, Reason::Verdict(16..=18)),
        "{outcome:?}"
    );
    assert!(outcome.entered.is_some());
    assert!(!outcome.abandoned);
}

#[test]
fn the_bundled_guest_finds_its_start_info_in_rsi() {
    // mov %rsi, %rbx
    let code = [
        vec![0x48, 0x89, 0xf3],
        code::expect_start_info(),
        code::exit(0),
    ]
    .concat();
    let running = machine(&code, 1).start().unwrap();
    wait_for_end(&running);
    assert_eq!(running.finish(None).reason, Reason::Verdict(0));
}

#[test]
fn vcpus_are_pinned_where_the_machine_said() {
    let machine = machine(&count_forever(), 2);
    let planned = machine.cpus().to_vec();
    let running = machine.start().unwrap();
    assert_eq!(running.vcpus().cpus(), planned);
    wait_for_counts(&running, &[0; 2]);
    let mut found = BTreeSet::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        for (index, cpu) in planned.iter().enumerate() {
            if field("Name:") == format!("vcpu{index}")
                && field("Cpus_allowed_list:") == cpu.to_string()
            {
                found.insert(index);
            }
        }
    }
    assert!(found.contains(&0) && found.contains(&1), "{found:?}");
    running.finish(None);
}

#[test]
fn a_paused_guest_stands_still_and_a_resumed_one_goes_on() {
    for code in [count_forever(), exit_forever()] {
        let running = machine(&code, 2).start().unwrap();
        wait_for_counts(&running, &[0; 2]);
        for _ in 0..20 {
            running.vcpus().pause(LIMIT).unwrap();
            let before = [counter(running.ram(), 0), counter(running.ram(), 1)];
            thread::sleep(Duration::from_millis(2));
            let after = [counter(running.ram(), 0), counter(running.ram(), 1)];
            assert_eq!(before, after);
            running.vcpus().resume();
            wait_for_counts(&running, &before);
        }
        let outcome = running.finish(None);
        assert!(!outcome.abandoned);
    }
}

#[test]
fn no_kick_is_lost_however_it_meets_the_vcpus() {
    // Requests follow each other without a rest, so that they arrive before, in and after KVM_RUN: a lost
    // one shows as a pause that times out.
    for code in [count_forever(), exit_forever()] {
        let running = machine(&code, 2).start().unwrap();
        for round in 0..500 {
            if let Err(still) = running.vcpus().pause(LIMIT) {
                panic!("round {round}: {still}");
            }
            running.vcpus().resume();
        }
        assert!(!running.finish(None).abandoned);
    }
}

#[test]
fn a_stop_reaches_vcpus_that_have_hardly_started_run_or_are_paused() {
    for delay in [0, 50, 500, 5_000] {
        let running = machine(&count_forever(), 2).start().unwrap();
        thread::sleep(Duration::from_micros(delay));
        let asked = Instant::now();
        let outcome = running.finish(Some("SIGTERM"));
        assert!(asked.elapsed() < LIMIT);
        assert!(!outcome.abandoned, "after {delay} us");
        assert!(
            matches!(
                outcome.reason,
                Reason::Signal {
                    boot_vcpu: Some(_),
                    ..
                }
            ),
            "{outcome:?}"
        );
    }
    let running = machine(&count_forever(), 2).start().unwrap();
    running.vcpus().pause(LIMIT).unwrap();
    assert!(!running.finish(None).abandoned);
}

#[test]
fn a_vcpu_that_waits_for_its_start_up_interrupt_can_be_paused_and_stopped() {
    require_kvm();
    let dir = support::gmem::TempDir::new();
    let path = dir.file("kernel", &TinyElf::new(&code::spin()).build());
    let config = Config {
        memory: 16 << 20,
        cpus: 2,
        plan: None,
        payload: Payload::Kernel {
            path,
            command_line: String::new(),
            initrd: None,
        },
        devices: DeviceConfig::default(),
    };
    let machine = Machine::build(&config, Box::new(std::io::sink())).unwrap();
    let running = machine.start().unwrap();
    for _ in 0..100 {
        running.vcpus().pause(LIMIT).unwrap();
        running.vcpus().resume();
    }
    assert!(!running.finish(None).abandoned);
}

#[test]
fn the_first_end_is_kept_when_others_follow() {
    let running = machine(&[rendezvous(2), code::exit(9)].concat(), 2)
        .start()
        .unwrap();
    wait_for_end(&running);
    let (first, end) = running.vcpus().first_end().unwrap();
    assert!(first < 2);
    assert_eq!(end.cause, Cause::Exit(9));
    thread::sleep(Duration::from_millis(20));
    assert_eq!(running.vcpus().first_end().unwrap().0, first);
}
