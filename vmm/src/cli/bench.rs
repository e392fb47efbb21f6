//! `gmem bench`: what this product costs, measured here and now.

mod accel;
mod policy;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use accel::AccelArgs;
use policy::PolicyArgs;

use super::run::Failure;
use super::size;
use super::status::StatusLine;
use crate::bench::{
    self, BenchError, Measured, Progress, Summary, fault, host::HostFacts, resident,
};
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
    /// Memory that fits its budget, against plain memory
    Resident(ResidentArgs),
    /// Accelerators that share the guest's memory: placement, weights that stream, faults
    Accel(AccelArgs),
    /// Who leaves memory: misses of the engine's policy and of others, simulated
    Policy(PolicyArgs),
}

#[derive(Debug, Args)]
struct FaultArgs {
    /// Rounds, each of both sides
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// The guest's memory; a quarter of it is resident
    #[arg(long, value_name = "SIZE", default_value = "128M", value_parser = memory)]
    memory: u64,

    /// How often a run touches every page
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    passes: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ResidentArgs {
    /// Pairs of runs
    #[arg(long, value_name = "N", default_value = "15", value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,

    /// The guest's memory, and the budget of the side that has one
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = memory)]
    memory: u64,

    /// Length of the timed part of a run
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    seconds: u16,

    /// Write the result here as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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
    if !matches!(experiment, Experiment::Policy(_)) {
        require_kvm(&host).map_err(lacks)?;
    }
    let signals =
        TerminationSignals::block().map_err(|error| Failure::new(ExitCode::HostLacks, error))?;
    let status = StatusLine::on_stderr();
    match experiment {
        Experiment::Fault(args) => {
            require_kernel(&host).map_err(lacks)?;
            require_userfaultfd(&host).map_err(lacks)?;
            let json = JsonFile::create(args.json)?;
            let options = fault::Options {
                rounds: args.rounds.into(),
                memory: args.memory,
                budget: args.memory / 4,
                passes: args.passes.into(),
            };
            let measured = fault::measure(&options, &signals, &status).map_err(failed)?;
            json.write(&measured)?;
            print(&fault_text(&measured))
        }
        Experiment::Resident(args) => {
            let json = JsonFile::create(args.json)?;
            let options = resident::Options {
                pairs: args.pairs.into(),
                memory: args.memory,
                seconds: args.seconds.into(),
            };
            let measured = resident::measure(&options, &signals, &status).map_err(failed)?;
            json.write(&measured)?;
            print(&resident_text(&measured))
        }
        Experiment::Accel(args) => {
            require_kernel(&host).map_err(lacks)?;
            require_userfaultfd(&host).map_err(lacks)?;
            let options = args.options();
            let json = JsonFile::create(args.json)?;
            let measured = bench::accel::measure(&options, &signals, &status).map_err(failed)?;
            json.write(&measured)?;
            print(&accel::text(&measured))
        }
        Experiment::Policy(args) => {
            let options = args.options();
            let json = JsonFile::create(args.json)?;
            let measured = bench::policy::measure(&options, &signals, &status).map_err(failed)?;
            json.write(&measured)?;
            print(&policy::text(&measured))
        }
    }
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

/// Where the JSON goes. Opened before the measurement, so that a wrong path is known at once; removed again
/// where there is nothing to write.
struct JsonFile(Option<(PathBuf, fs::File)>);

impl JsonFile {
    fn create(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        match fs::File::create(&path) {
            Ok(file) => Ok(Self(Some((path, file)))),
            Err(error) => Err(Failure::new(ExitCode::Usage, unwritable(&path, &error))),
        }
    }

    fn write(mut self, measured: &impl Serialize) -> Result<(), Failure> {
        let Some((path, mut file)) = self.0.take() else {
            return Ok(());
        };
        let written = serde_json::to_vec(measured)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
        written.map_err(|error| Failure::new(ExitCode::Failed, unwritable(&path, &error)))
    }
}

impl Drop for JsonFile {
    fn drop(&mut self) {
        if let Some((path, file)) = self.0.take()
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
        {
            // Nothing to be done where it fails: an empty file stays.
            let _ = fs::remove_file(path);
        }
    }
}

fn unwritable(path: &std::path::Path, error: &io::Error) -> String {
    format!(
        "result {} cannot be written: {error}; give --json a file in a writable directory",
        path.display()
    )
}

fn fault_text(measured: &Measured<fault::Figures, fault::Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "One fault of 4 KiB as the vCPU sees it: {} MiB of memory, {} MiB resident, {} rounds.\n{}\n\n",
        figures.memory_bytes >> 20,
        figures.budget_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    text += &row("floor, p50", "us", &figures.floor.fault_p50_us, 1);
    text += &row("engine, p50", "us", &figures.engine.fault_p50_us, 1);
    text += &row("floor, p99", "us", &figures.floor.fault_p99_us, 1);
    text += &row("engine, p99", "us", &figures.engine.fault_p99_us, 1);
    let ratios = &measured.ratios;
    text += &row(
        "p50, engine over floor",
        "",
        &ratios.fault_p50_over_floor,
        3,
    );
    text += &row(
        "p99, engine over floor",
        "",
        &ratios.fault_p99_over_floor,
        3,
    );
    text
}

fn resident_text(measured: &Measured<resident::Figures, resident::Ratios>) -> String {
    let figures = &measured.figures;
    let mut text = format!(
        "Zipf on {} MiB that fit their budget, against plain memory: {} pairs.\n{}\n\n",
        figures.memory_bytes >> 20,
        measured.rounds,
        host_line(&measured.host),
    );
    text += &heading();
    let millions = |summary: &Summary| Summary {
        median: summary.median / 1e6,
        min: summary.min / 1e6,
        max: summary.max / 1e6,
        low95: summary.low95.map(|low| low / 1e6),
        high95: summary.high95.map(|high| high / 1e6),
    };
    let rate = |name, rate: &resident::Rate| row(name, "Mop/s", &millions(&rate.ops_per_sec), 3);
    text += &rate("resident", &figures.resident);
    text += &rate("plain", &figures.plain);
    let ratio = &measured.ratios.resident_over_plain;
    text += &row("resident over plain", "", ratio, 3);
    text
}

fn host_line(host: &HostFacts) -> String {
    format!(
        "Linux {}, {} CPU(s) {}, KVM on {}, huge pages: {}, load {:.1}",
        host.kernel, host.cpus, host.processor, host.virtualization, host.huge_pages, host.load
    )
}

fn heading() -> String {
    format!(
        "{:<24}{:>10}{:>10}{:>10}   {}\n",
        "", "median", "min", "max", "95% interval of the median"
    )
}

fn row(name: &str, unit: &str, summary: &Summary, digits: usize) -> String {
    let interval = match (summary.low95, summary.high95) {
        (Some(low), Some(high)) => format!("{low:.digits$} to {high:.digits$}"),
        _ => "too few rounds".to_owned(),
    };
    let Summary {
        median, min, max, ..
    } = summary;
    format!("{name:<24}{median:>10.digits$}{min:>10.digits$}{max:>10.digits$}   {interval} {unit}")
        .trim_end()
        .to_owned()
        + "\n"
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

    #[test]
    fn a_row_without_an_interval_says_why() {
        let few = row("p50", "us", &Summary::of(&[1.0, 2.0]), 1);
        assert!(
            few.contains("1.5") && few.contains("too few rounds us\n"),
            "{few}"
        );
        let many = row("ratio", "", &Summary::of(&[1.0; 6]), 3);
        assert!(many.ends_with("1.000 to 1.000\n"), "{many}");
    }
}
