//! `gmem bench`: what this product costs, measured here and now.

mod accel;
mod all;
mod delay;
mod evict;
mod fault;
mod file;
mod pager;
mod policy;
mod resident;
mod scaling;
mod soak;
mod text;
mod workload;

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;

use accel::AccelArgs;
use all::AllArgs;
use delay::DelayArgs;
use evict::EvictArgs;
use fault::FaultArgs;
use file::ResultFile;
use pager::PagerArgs;
use policy::PolicyArgs;
use resident::ResidentArgs;
use scaling::ScalingArgs;
use soak::SoakArgs;
use workload::WorkloadArgs;

use super::run::Failure;
use super::size;
use super::status::StatusLine;
use crate::bench::plot::{Panel, svg};
use crate::bench::workload::Workload;
use crate::bench::{self, BenchError, Measured, Progress};
use crate::check::{Host, HostLacks, require_kernel, require_kvm, require_userfaultfd};
use crate::exit_code::ExitCode;
use crate::signals::TerminationSignals;

/// The least guest memory, bytes: the bundled guest and something to work on.
const LEAST_MEMORY: u64 = 16 << 20;
/// The most: what both sides of a comparison have at once must fit a small machine.
const MOST_MEMORY: u64 = 2 << 30;

/// The options of `gmem bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    /// One unpredicted fault: the engine against a handler that does nothing but move the page
    Fault(FaultArgs),
    /// Faults a second of several vCPUs over those of one, against such handlers
    Scaling(ScalingArgs),
    /// Memory that fits its budget, against plain memory
    Resident(ResidentArgs),
    /// Oversubscribed memory, pages in ascending order: against plain memory or the kernel's swap
    Scan(WorkloadArgs),
    /// The same, every 17th page
    Stride(WorkloadArgs),
    /// The same, pages at random
    Uniform(WorkloadArgs),
    /// The same, pages by Zipf's law
    Zipf(WorkloadArgs),
    /// The same, a hot set and a scan of the rest
    Hotscan(WorkloadArgs),
    /// The same, a hot set that changes
    Phase(WorkloadArgs),
    /// CPU time to evict a page: against the kernel's swap
    Evict(EvictArgs),
    /// All of these, and what each ratio should be
    All(AllArgs),
    /// Accelerators that share the guest's memory: placement, weights that stream, faults
    Accel(AccelArgs),
    /// Pages that somebody else holds, against memcpy, bare sockets and redis-benchmark
    Pager(PagerArgs),
    /// A scan whose pages are far away: delays of the network against none
    Delay(DelayArgs),
    /// Holders of a guest's pages are killed while it uses them, and nothing may be lost
    Soak(SoakArgs),
    /// Who leaves memory: misses of the engine's policy and of others, simulated
    Policy(PolicyArgs),
}

fn memory(text: &str) -> Result<u64, String> {
    let found = size::parse(text).map_err(|error| error.to_string())?;
    if (LEAST_MEMORY..=MOST_MEMORY).contains(&found) && found.is_multiple_of(4 * 4096) {
        Ok(found)
    } else {
        Err(format!(
            "{found} bytes, expected 16M to 2G in multiples of 16K"
        ))
    }
}

impl Progress for StatusLine {
    fn line(&self, text: String) {
        self.say(&text);
    }
}

/// Measures. What goes wrong is said on stderr.
pub fn execute(args: BenchArgs) -> ExitCode {
    let failure = match run(args.experiment) {
        Ok(()) => return ExitCode::Success,
        Err(failure) => failure,
    };
    // Not `eprintln`, which panics where stderr is closed.
    let _ = writeln!(io::stderr(), "gmem: {}", failure.message);
    failure.code
}

fn run(experiment: Experiment) -> Result<(), Failure> {
    let host = Host::this();
    let lacks = |error: HostLacks| Failure::new(ExitCode::HostLacks, error);
    // What is simulated needs nothing of the host.
    if !matches!(experiment, Experiment::Policy(_) | Experiment::Pager(_)) {
        require_kvm(&host).map_err(lacks)?;
    }
    if !matches!(
        experiment,
        Experiment::Policy(_) | Experiment::Pager(_) | Experiment::Resident(_)
    ) {
        require_kernel(&host).map_err(lacks)?;
        require_userfaultfd(&host).map_err(lacks)?;
    }
    let signals =
        TerminationSignals::block().map_err(|error| Failure::new(ExitCode::HostLacks, error))?;
    let status = StatusLine::on_stderr();
    let workload = |workload: Workload, args: WorkloadArgs| {
        let options = args.options(workload);
        let [json, plot] = [args.common.json, args.common.plot].map(ResultFile::create);
        let (json, plot) = (json?, plot?);
        let measured = bench::workload::measure(&options, &signals, &status).map_err(failed)?;
        plot.write_text(&svg(&[Panel::of(workload.name(), &measured.figures)]))?;
        finish(json, Ok(measured), workload::text)
    };
    match experiment {
        Experiment::Fault(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::fault::measure(&options, &signals, &status);
            finish(json, measured, fault::text)
        }
        Experiment::Scaling(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::scaling::measure(&options, &signals, &status);
            finish(json, measured, scaling::text)
        }
        Experiment::Resident(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::resident::measure(&options, &signals, &status);
            finish(json, measured, resident::text)
        }
        Experiment::Scan(args) => workload(Workload::Scan, args),
        Experiment::Stride(args) => workload(Workload::Stride, args),
        Experiment::Uniform(args) => workload(Workload::Uniform, args),
        Experiment::Zipf(args) => workload(Workload::Zipf, args),
        Experiment::Hotscan(args) => workload(Workload::Hotscan, args),
        Experiment::Phase(args) => workload(Workload::Phase, args),
        Experiment::Evict(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::evict::measure(&options, &signals, &status);
            finish(json, measured, evict::text)
        }
        Experiment::All(args) => {
            let options = args.options();
            let text = if args.markdown {
                all::markdown
            } else {
                all::text
            };
            let [json, plot] = [args.common.json, args.common.plot].map(ResultFile::create);
            let (json, plot) = (json?, plot?);
            let found = bench::all::measure(&options, &signals, &status).map_err(failed)?;
            plot.write_text(&svg(&found.panels))?;
            finish(json, Ok(found.measured), text)
        }
        Experiment::Accel(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::accel::measure(&options, &signals, &status);
            finish(json, measured, accel::text)
        }
        Experiment::Pager(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::pager::measure(&options, &signals, &status);
            finish(json, measured, pager::text)
        }
        Experiment::Delay(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::delay::measure(&options, &signals, &status);
            finish(json, measured, delay::text)
        }
        Experiment::Soak(args) => {
            let options = args.options();
            let json = ResultFile::create(args.json)?;
            let measured = bench::soak::measure(&options, &signals, &status).map_err(failed)?;
            let is_clean = measured.figures.is_clean();
            finish(json, Ok(measured), soak::text)?;
            match is_clean {
                true => Ok(()),
                false => Err(Failure::new(
                    ExitCode::Failed,
                    "a guest lost pages, hung, or did not end well, though one holder had everything; --json says which",
                )),
            }
        }
        Experiment::Policy(args) => {
            let options = args.options()?;
            let json = ResultFile::create(args.json)?;
            let measured = bench::policy::measure(&options, &signals, &status);
            finish(json, measured, policy::text)
        }
    }
}

/// Writes and prints what was measured.
fn finish<F: Serialize, R: Serialize>(
    json: ResultFile,
    measured: Result<Measured<F, R>, BenchError>,
    text: fn(&Measured<F, R>) -> String,
) -> Result<(), Failure> {
    let measured = measured.map_err(failed)?;
    json.write(&measured)?;
    print(&text(&measured))
}

fn failed(error: BenchError) -> Failure {
    let failure = Failure::new(error.exit_code(), &error);
    if error.is_abandoned() {
        let _ = writeln!(io::stderr(), "gmem: {}", failure.message);
        // SAFETY: ends the process: a vCPU thread is stuck in the kernel, and running destructors beneath
        // it could hang.
        unsafe { libc::_exit(failure.code.into()) };
    }
    failure
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(ExitCode::Failed, format_args!("stdout: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_size_that_can_be_quartered() {
        assert_eq!(memory("128M"), Ok(128 << 20));
        for text in ["8M", "4G", "16777216", "x", "16781312"] {
            assert_eq!(memory(text).is_ok(), text == "16777216", "{text}");
        }
    }
}
