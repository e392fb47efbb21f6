//! The result: one line of JSON.
//!
//! | key | meaning |
//! |---|---|
//! | `workload`, `cpus`, `seed`, `working_set_bytes` | what ran |
//! | `ops`, `seconds`, `ops_per_sec` | of the timed phase; `verify`: page writes and page reads of all epochs |
//! | `warmup_seconds` | initialisation of the pages and warm-up |
//! | `verified_bytes` | bytes that were compared and right |
//! | `mismatched_bytes` | bytes that were compared and wrong |
//! | `fault_count`, `fault_p50_us`, `fault_p99_us`, `fault_p999_us`, `fault_max_us` | accesses of the timed phase longer than `fault_threshold_us`, as the vCPU saw them; `verify`: of the first access to each page |
//! | `writes`, `counted` | increments made, and their sum as found; a difference is a mismatch |
//! | `first_mismatch` | `address`, `expected`, `found`, if there is one |
//! | `accelerators`, `commands`, `device_seconds`, `command_p50_us`, `nop_p50_us`, `fault_p50_us_accel`, `local_bytes`, `failures`, `first_failure` | `gather`, `layers`, `kvcache`, `pingpong`: see `docs/workloads.md` |
//! | `lent_bytes`, `clients`, `clients_left`, `pages_read`, `pages_written`, `refused` | `donor`: see `docs/workloads.md` |
//! | `device`, `devices`, `rounds`, `attacks`, `broken`, `recoveries`, `beside`, `beside_max_us`, `packets`, `failures`, `first_failure` | `hostile`: see `docs/workloads.md` |
//! | `tsc_khz`, `tsc_assumed` | the clock; `tsc_assumed` only if nobody told its frequency |

use super::accelerated::account::Account;
use super::donor::Lending;
use super::hostile::score::Score;
use super::json::Object;
use super::tally::Tally;
use crate::clock::Frequency;
use crate::memory::PAGE_SIZE;
use crate::plan::{Plan, Target, Workload};
use core::fmt::{self, Write};

/// What ran where.
pub struct Context<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// CPUs that worked.
    pub cpus: usize,
    /// Pages that they worked on.
    pub pages: u64,
    /// The TSC's frequency.
    pub frequency: Frequency,
}

/// Writes the result of all CPUs together, without a line end.
///
/// # Errors
///
/// Those of `out`.
pub fn write(out: &mut dyn Write, context: &Context<'_>, tally: &Tally) -> fmt::Result {
    let Context {
        plan, frequency, ..
    } = context;
    let seconds = frequency.seconds(tally.timed_cycles);
    // Where a device failed nobody has counted.
    let counted = tally.accel.failures > 0 || tally.counted == tally.writes;
    let lost_counts = if counted { 0 } else { 8 };
    let mut object = Object::begin(out);
    object.text("workload", plan.name);
    object.integer("cpus", context.cpus as u64);
    object.integer("seed", plan.seed);
    object.integer("working_set_bytes", context.pages * PAGE_SIZE);
    object.integer("ops", tally.ops);
    object.decimal("seconds", seconds, 6);
    let per_second = if tally.ops == 0 {
        0.0
    } else {
        tally.ops as f64 / seconds
    };
    object.decimal("ops_per_sec", per_second, 1);
    object.decimal("warmup_seconds", frequency.seconds(tally.warmup_cycles), 6);
    object.integer(
        "verified_bytes",
        tally.compared.saturating_sub(tally.mismatched),
    );
    object.integer("mismatched_bytes", tally.mismatched + lost_counts);
    let microseconds = |cycles| frequency.microseconds(cycles);
    object.integer("fault_threshold_us", plan.fault_threshold_us);
    object.integer("fault_count", tally.faults.count());
    object.decimal(
        "fault_p50_us",
        microseconds(tally.faults.percentile(500)),
        2,
    );
    object.decimal(
        "fault_p99_us",
        microseconds(tally.faults.percentile(990)),
        2,
    );
    object.decimal(
        "fault_p999_us",
        microseconds(tally.faults.percentile(999)),
        2,
    );
    object.decimal("fault_max_us", microseconds(tally.faults.max()), 2);
    specifics(&mut object, context, tally);
    if let Some(first) = tally.first {
        object.object("first_mismatch", |object| {
            object.hexadecimal("address", first.address);
            object.hexadecimal("expected", first.expected);
            object.hexadecimal("found", first.found);
        });
    }
    object.integer("tsc_khz", frequency.khz);
    if frequency.assumed {
        object.truth("tsc_assumed", true);
    }
    object.end()
}

fn specifics(object: &mut Object<'_>, context: &Context<'_>, tally: &Tally) {
    let Context {
        plan, frequency, ..
    } = context;
    match plan.workload {
        Workload::Verify { epochs } => object.integer("epochs", epochs),
        Workload::Stride { stride } => object.integer("stride", stride),
        Workload::Zipf { theta } => object.decimal("theta", theta, 4),
        Workload::HotScan { hot, hot_ops, .. } | Workload::Phase { hot, hot_ops, .. } => {
            object.integer("hot_percent", hot);
            object.integer("hot_ops_percent", hot_ops);
        }
        Workload::Faults { passes } => object.integer("passes", passes),
        Workload::Hostile { device, .. } => {
            hostile(object, device, &tally.hostile);
            let slowest = frequency.microseconds(tally.hostile.beside_cycles);
            object.decimal("beside_max_us", slowest, 2);
        }
        Workload::Gather {
            theta, row, batch, ..
        } => {
            object.integer("rows", tally.accel.parts);
            object.decimal("theta", theta, 4);
            object.integer("row_bytes", row);
            object.integer("batch", batch);
        }
        Workload::Layers { epochs, rows, .. } => {
            object.integer("layers", tally.accel.parts);
            object.integer("rows", rows);
            object.integer("epochs", epochs);
            object.integer("weight_bytes", tally.accel.weight_bytes);
            let first = tally.accel.first_epoch_cycles;
            let later = frequency.seconds(tally.timed_cycles.saturating_sub(first));
            let epochs = epochs.saturating_sub(1).max(1);
            object.decimal("epoch_seconds", later / epochs as f64, 6);
        }
        Workload::Donor { .. } => lent(object, &tally.lending),
        Workload::KvCache { width, theta, .. } => {
            object.integer("sequences", tally.accel.parts);
            object.decimal("theta", theta, 4);
            object.integer("width_bytes", width);
        }
        _ => {}
    }
    if plan.workload.in_one_piece() {
        accelerated(object, context, &tally.accel);
    }
    if plan.workload.counts_writes() {
        object.integer("write_percent", plan.write_percent);
        object.integer("writes", tally.writes);
        object.integer("counted", tally.counted);
    }
}

fn lent(object: &mut Object<'_>, lending: &Lending) {
    object.integer("lent_bytes", lending.lent_bytes);
    object.integer("clients", lending.clients);
    object.integer("clients_left", lending.clients_left);
    object.integer("pages_read", lending.pages_read);
    object.integer("pages_written", lending.pages_written);
    object.integer("refused", lending.refused);
}

fn accelerated(object: &mut Object<'_>, context: &Context<'_>, account: &Account) {
    let Context {
        plan, frequency, ..
    } = context;
    let latencies = &account.latencies;
    object.truth("hints", plan.workload.hints());
    object.integer("accelerators", account.accelerators);
    object.integer("commands", account.commands);
    let waited = frequency.seconds(account.waited_cycles);
    object.decimal("device_seconds", waited, 6);
    for (key, cycles) in [
        ("command_p50_us", latencies.percentile(500)),
        ("command_p99_us", latencies.percentile(990)),
        ("command_max_us", latencies.max()),
        ("nop_p50_us", account.nop_cycles),
        ("fault_p50_us_accel", account.fault_cycles),
    ] {
        object.decimal(key, frequency.microseconds(cycles), 2);
    }
    if let Some(bytes) = account.local_bytes {
        object.integer("local_bytes", bytes);
    }
    object.integer("failures", account.failures);
    if let Some(first) = account.first {
        object.object("first_failure", |object| {
            object.text("device", first.device);
            object.integer("number", first.number as u64);
            object.text("what", first.what);
            object.integer("cpu", first.cpu as u64);
        });
    }
}

fn hostile(object: &mut Object<'_>, device: Target, score: &Score) {
    object.text("device", device.name());
    object.integer("devices", score.devices);
    object.integer("rounds", score.rounds);
    object.integer("attacks", score.attacks);
    object.integer("broken", score.broken);
    object.integer("recoveries", score.recoveries);
    object.integer("beside", score.beside);
    object.integer("packets", score.packets);
    object.integer("failures", score.failures);
    if let Some(first) = score.first {
        object.object("first_failure", |object| {
            object.text("device", first.device);
            object.text("what", first.what);
            object.integer("round", first.round);
            object.integer("cpu", first.cpu);
        });
    }
}
