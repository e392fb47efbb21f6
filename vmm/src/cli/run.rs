//! `gmem run`: one microVM, from its options to its exit code.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use gmem_core::pager::address::Address;
use gmem_wire::exit;

use super::accel;
use super::device_args::DeviceArgs;
use super::farewell::Farewell;
use super::memory::{self, MemoryArg};
use super::plan::{self, Asked};
use super::record::{self, RecordArg};
use super::status::StatusLine;
use super::stderr;
use super::tier::{self, TierArg};
use super::watch::{Ended, watch};
use crate::accelerators::AccelConfig;
use crate::api::server::{Server, Target};
use crate::boot;
use crate::check::{
    Host, HostLacks, require_kernel, require_kvm, require_swap, require_userfaultfd,
};
use crate::console_input::ConsoleInput;
use crate::devices::DeviceConfig;
use crate::exit_code::ExitCode;
use crate::machine::{BuildError, Config, Machine, Payload, Setting};
use crate::memory::plan::Plan;
use crate::memory::recorder::{RecordError, Recorder};
use crate::memory::server;
use crate::outcome::{Outcome, Reason};
use crate::pager::donate::Donation;
use crate::pager::listen::{ListenError, Listener};
use crate::report::{OutcomeKind, Report, ReportSink};
use crate::signals::{TerminationSignals, survive_file_size_limit};
use crate::socket::Socket;

/// What the bundled guest does if nobody says otherwise.
const DEFAULT_WORKLOAD: &str = "verify epochs=3";
/// How long stderr has to take the last words of a run that somebody has ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// When small pages become huge ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Huge {
    /// Never.
    Off,
    /// Where a block has stayed in the host for a while and the host offers huge pages.
    Auto,
}

/// The options of `gmem run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A 64-bit kernel: ELF (Linux: vmlinux) or bzImage; without it the bundled guest runs
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,

    /// The kernel's command line, behind what gmem adds for its devices and this host
    /// [default: console=ttyS0 (or hvc0) reboot=k panic=-1]
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,

    /// How many vCPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=254))]
    cpus: u8,

    /// The host CPU of each vCPU, for measurements; dealt in turn if not given
    #[arg(long, value_name = "N", hide = true)]
    vcpu_cpu: Vec<usize>,

    /// The guest's memory; with overcommit=allow it may be more than the tiers hold
    #[arg(long, value_name = "SIZE[,overcommit=allow]", default_value = "512M", value_parser = memory::parse)]
    memory: MemoryArg,

    /// What holds the guest's memory, nearest first; the first is host:SIZE. Kinds: host, hbm, zip, file, remote, swap.
    /// Or none: plain memory
    #[arg(long = "tier", value_name = "KIND:SIZE[,key=value...]", value_parser = tier::parse)]
    tiers: Vec<TierArg>,

    /// Whether 2 MiB of armed memory that stay in the host become a huge page
    #[arg(long, value_name = "off|auto", default_value = "off", value_enum)]
    huge: Huge,

    /// An accelerator that shares the guest's memory: npu or gpu. Its memory (hbm=SIZE, 256M if not given) holds pages
    /// beside any --tier hbm
    #[arg(long = "accel", value_name = "KIND[,hbm=SIZE][,key=value...]", value_parser = accel::parse)]
    accelerators: Vec<AccelConfig>,

    /// Let the guest lend memory to others, who connect at this Unix socket: the bundled guest's workload `donor` does
    #[arg(long, value_name = "unix:PATH", value_parser = Address::parse, requires = "accelerators")]
    donate: Option<Address>,

    /// Seconds that those who use memory of this guest have to take their pages back when it is told to end
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "30",
        requires = "donate"
    )]
    drain: u32,

    /// A Unix socket to be made, over which `gmem ctl` controls the run
    #[arg(long, value_name = "PATH")]
    api_sock: Option<PathBuf>,

    /// Where the JSON report goes at the end: a file, or - for stdout
    #[arg(long, value_name = "FILE|-")]
    report: Option<String>,

    /// Record which pages the guest touches, in order, for `gmem bench policy --trace`: with as few pages in its memory at a time
    /// as the window has (64), which is slow. In place of --tier
    #[arg(long, value_name = "FILE[,window=N]", value_parser = record::parse, conflicts_with_all = ["tiers", "accelerators"])]
    record: Option<RecordArg>,

    #[command(flatten)]
    devices: DeviceArgs,

    /// What the bundled guest does
    #[arg(long, value_name = "NAME key=value ...", conflicts_with = "kernel")]
    workload: Option<String>,
}

/// Why a run ended before its guest could.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub code: ExitCode,
    /// One line: cause and remedy.
    pub message: String,
}

impl Failure {
    /// The failure that `error` is.
    pub fn new(code: ExitCode, error: impl std::fmt::Display) -> Self {
        Self {
            code,
            message: error.to_string(),
        }
    }
}

/// Runs the microVM. All that goes wrong is said on stderr, and in the report if one is asked for.
pub fn execute(args: RunArgs, started: Instant) -> ExitCode {
    let sink = match args.report.as_deref().map(ReportSink::open).transpose() {
        Ok(sink) => sink,
        Err(error) => {
            complain(&error.to_string(), None);
            return ExitCode::Usage;
        }
    };
    let memory_bytes = args.memory.size;
    let bundled = args.kernel.is_none();
    let (mut code, mut report, abandoned, urgent) = match run(args) {
        Ok(ended) => {
            let mut report = ended.outcome.report(started);
            ended.describe(&mut report);
            (
                exit_code(&ended.outcome, bundled),
                report,
                ended.outcome.abandoned,
                ended.outcome.is_urgent(),
            )
        }
        Err(failure) => {
            let mut report = Report::new(OutcomeKind::Error);
            report.message = Some(failure.message);
            (failure.code, report, false, false)
        }
    };
    report.memory.size_bytes = memory_bytes;
    let patience = urgent.then_some(PATIENCE);
    if let Some(message) = &report.message {
        complain(message, patience);
    }
    if let Some(Err(error)) = sink.map(|sink| sink.write(&report, !urgent)) {
        complain(&error.to_string(), patience);
        if code == ExitCode::Success {
            code = ExitCode::Failed;
        }
    }
    if abandoned {
        // A vCPU thread is stuck in the kernel; running destructors beneath it could hang.
        // SAFETY: ends the process; the report is written and flushed.
        unsafe { libc::_exit(code.into()) };
    }
    code
}

/// A workload that the bundled guest does not know is a wrong command line, although the guest found out.
fn exit_code(outcome: &Outcome, bundled: bool) -> ExitCode {
    if bundled && outcome.reason == Reason::Verdict(exit::BAD_WORKLOAD) {
        ExitCode::Usage
    } else {
        outcome.exit_code()
    }
}

fn run(args: RunArgs) -> Result<Ended, Failure> {
    let asked = Asked {
        memory: args.memory,
        bundled: args.kernel.is_none(),
        shared: !args.accelerators.is_empty(),
    };
    let plan = plan::of(args.tiers.clone(), asked)
        .map_err(|error| Failure::new(ExitCode::Usage, error))?
        // A recorder serves the memory in the plan's place.
        .filter(|_| args.record.is_none())
        .map(|plan| Plan {
            huge: args.huge == Huge::Auto,
            ..plan
        });
    let host = Host::this();
    let lacks = |error: HostLacks| Failure::new(ExitCode::HostLacks, error);
    require_kvm(&host).map_err(lacks)?;
    match &plan {
        None if args.record.is_none() => {}
        Some(plan) if let Some(bytes) = plan.swap() => {
            require_swap(&host, plan.budget, bytes).map_err(lacks)?;
        }
        None | Some(_) => {
            require_kernel(&host).map_err(lacks)?;
            require_userfaultfd(&host).map_err(lacks)?;
        }
    }
    let host_failed = |error: io::Error| Failure::new(ExitCode::HostLacks, error);
    let signals = TerminationSignals::block().map_err(host_failed)?;
    survive_file_size_limit();
    let socket = args.api_sock.as_deref().map(Socket::bind);
    let socket = socket
        .transpose()
        .map_err(|error| Failure::new(ExitCode::Usage, format!("--api-sock: {error}")))?;
    let donated = args
        .donate
        .as_ref()
        .map(|address| listen(address, &args.tiers))
        .transpose()
        .map_err(|error| Failure::new(ExitCode::Usage, format!("--donate: {error}")))?;
    let drain = Duration::from_secs(args.drain.into());
    let recorder = args.record.as_ref().map(|record| {
        let recorder = Recorder::create(&record.path, record.window);
        recorder
            .map(Arc::new)
            .map_err(|error| Failure::new(ExitCode::Usage, error))
    });
    let recorder = recorder.transpose()?;
    let setting = Setting {
        cpus: Some(args.vcpu_cpu.clone()).filter(|cpus| !cpus.is_empty()),
        server: recorder
            .clone()
            .map(|recorder| recorder as Arc<dyn server::Server>),
    };
    let config = config(args, plan);
    // A descriptor of its own: a vCPU that is stuck in writing to it must not hold the lock of this
    // process's stdout.
    let stdout = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .map_err(host_failed)?;
    let status = Arc::new(StatusLine::on_stderr());
    let console = status.beside(File::from(stdout));
    let build_failed = |error: BuildError| Failure::new(error.exit_code(), error);
    let machine = Machine::build_in(&config, Box::new(console), &setting).map_err(build_failed)?;
    let mut running = machine.start().map_err(build_failed)?;
    let input = running.console_input().map_err(host_failed)?;
    if input.as_ref().is_some_and(ConsoleInput::is_raw) {
        status.say("keys go to the guest; Ctrl-A x ends the run");
    }
    let target = Target {
        memory: Arc::clone(running.memory()),
        vcpus: running.vcpus().clone(),
        devices: Arc::clone(running.devices()),
    };
    let server = socket
        .map(|socket| Server::start(socket, target))
        .transpose()
        .map_err(host_failed)?;
    let lending = match (donated, running.devices().calls()) {
        (Some(listener), Some(calls)) => {
            status.say(&format!(
                "the guest may lend memory at {}",
                listener.address()
            ));
            let donation = Donation::start(listener, Arc::clone(calls)).map_err(host_failed)?;
            Some(Farewell::new(donation, drain))
        }
        _ => None,
    };
    let ended = watch(running, &signals, &status, server, input, lending).map_err(host_failed)?;
    let unwritten = |error: RecordError| Failure::new(ExitCode::Failed, error);
    let recorded = recorder.map_or(Ok(None), |recorder| recorder.finish());
    if let Some(recorded) = recorded.map_err(unwritten)? {
        let patience = ended.outcome.is_urgent().then_some(PATIENCE);
        status.say_within(&recorded.to_string(), patience);
    }
    Ok(ended)
}

/// Why a guest's memory cannot be lent.
#[derive(Debug, thiserror::Error)]
enum DonateError {
    #[error(
        "a microVM whose memory is somebody else's in part (--tier remote) has none to lend: leave one of the two out"
    )]
    Borrowed,
    #[error(
        "a guest's memory is lent at unix:PATH only, not at {0}; `gmem pager serve` lends at tcp://"
    )]
    NotHere(String),
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Where those who use the guest's memory connect.
fn listen(address: &Address, tiers: &[TierArg]) -> Result<Listener, DonateError> {
    let remote =
        |tier: &TierArg| matches!(tier, TierArg::Tier(tier) if tier.kind.name() == "remote");
    if tiers.iter().any(remote) {
        return Err(DonateError::Borrowed);
    }
    if !matches!(address, Address::Unix(_)) {
        return Err(DonateError::NotHere(address.to_string()));
    }
    Ok(Listener::bind(address, None)?.without_memory())
}

fn config(args: RunArgs, plan: Option<Plan>) -> Config {
    let payload = match args.kernel {
        Some(path) => Payload::Kernel {
            path,
            command_line: args
                .cmdline
                .unwrap_or_else(|| args.devices.command_line().into()),
            initrd: args.initrd,
        },
        None => Payload::Bundled {
            image: boot::bundled::IMAGE,
            workload: args.workload.unwrap_or_else(|| DEFAULT_WORKLOAD.into()),
            extra: args.cmdline.unwrap_or_default(),
        },
    };
    Config {
        memory: args.memory.size,
        plan,
        cpus: args.cpus.into(),
        payload,
        devices: DeviceConfig {
            accelerators: args.accelerators,
            donate: args.donate.is_some(),
            ..args.devices.config()
        },
    }
}

fn complain(message: &str, patience: Option<Duration>) {
    stderr::write(&format!("gmem: {message}\n"), patience);
}
