//! Devices that are wrong are found.

use super::*;
use gmem_wire::xpu::{op, status};

/// One of the commands with this operation is treated so.
fn once(op: u32, verdict: Verdict) -> impl Fn(usize, u64, &xpu::Request) -> Verdict + Sync {
    let seen = core::sync::atomic::AtomicU64::new(0);
    move |_, _, request| {
        if request.op != op {
            return Verdict::Obey;
        }
        match seen.fetch_add(1, core::sync::atomic::Ordering::Relaxed) {
            // The second one, which each of these workloads has.
            1 => verdict,
            _ => Verdict::Obey,
        }
    }
}

const RESULTS: [(&str, u32); 5] = [
    ("gather ops=5000", op::GATHER),
    ("layers layers=2 epochs=2", op::GEMM_BF16),
    ("kvcache ops=50", op::ATTENTION),
    ("pingpong ops=500", op::ATOMIC_ADD),
    ("pingpong ops=5000 burst=64", op::ATOMIC_ADDS),
];

#[test]
fn one_wrong_bit_of_a_result_is_found() {
    for (text, op) in RESULTS {
        let result = run(text, USUAL, &once(op, Verdict::Garble));
        assert_ne!(result["mismatched_bytes"], 0, "{result}");
        assert_eq!(result["failures"], 0, "{result}");
    }
}

#[test]
fn a_command_that_was_answered_and_not_done_is_found() {
    for (text, op) in RESULTS {
        let result = run(text, USUAL, &once(op, Verdict::Skip));
        assert_ne!(result["mismatched_bytes"], 0, "{result}");
        assert_eq!(result["failures"], 0, "{result}");
    }
}

#[test]
fn a_lost_update_of_an_accelerator_is_found() {
    for text in ["gather ops=5000 write=20", "pingpong ops=500"] {
        let result = run(text, USUAL, &once(op::ATOMIC_ADD, Verdict::Skip));
        assert_eq!(result["mismatched_bytes"], 8, "{result}");
        let [writes, counted] = ["writes", "counted"].map(|key| result[key].as_u64().unwrap());
        assert_eq!(writes, counted + 1, "{result}");
    }
}

#[test]
fn a_command_that_failed_ends_the_workload_and_is_named() {
    for (text, op) in RESULTS {
        let result = run(text, USUAL, &once(op, Verdict::Fail(status::NO_MEMORY)));
        assert_eq!(result["failures"], 1, "{result}");
        assert_eq!(result["mismatched_bytes"], 0, "{result}");
        let first = &result["first_failure"];
        assert_eq!(first["device"], "xpu");
        assert_eq!(first["what"], "an operand found no room");
    }
}

#[test]
fn an_accelerator_that_never_answers_is_given_up() {
    // Patience is counted in cycles of a clock that is said to be slow.
    let khz = 2_000;
    for (text, op) in RESULTS {
        for cpus in [1, 2] {
            let equipment = Equipment { cpus, khz, ..USUAL };
            let result = run(text, equipment, &once(op, Verdict::Silence));
            assert_ne!(result["failures"], 0, "{result}");
            let what = result["first_failure"]["what"].as_str().unwrap();
            assert!(what.contains("not answered in 60 seconds"), "{result}");
        }
    }
}

#[test]
fn a_hint_that_finds_no_room_is_none_and_one_that_is_refused_is_a_failure() {
    let text = "layers layers=3 epochs=1 hints=on";
    let no_room = run(
        text,
        USUAL,
        &once(op::ADVISE, Verdict::Fail(status::NO_MEMORY)),
    );
    assert_right(&no_room, 2);
    let refused = run(
        text,
        USUAL,
        &once(op::ADVISE, Verdict::Fail(status::INVALID)),
    );
    assert_eq!(refused["failures"], 1, "{refused}");
}

#[test]
fn an_accelerator_that_cannot_be_driven_ends_the_workload() {
    for (text, _) in RESULTS {
        let equipment = Equipment {
            streams: 0,
            ..USUAL
        };
        let result = run(text, equipment, &obey);
        assert_eq!(result["failures"], 2, "{result}");
        assert_eq!(result["ops"], 0, "{result}");
        let what = &result["first_failure"]["what"];
        assert_eq!(what, "an accelerator without queues");
    }
}
