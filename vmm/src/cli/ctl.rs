//! `gmem ctl`: looks at a running microVM and controls it, over the socket of its `--api-sock`.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{size, summary};
use crate::api::protocol::{
    ActivityAnswer, BalloonAnswer, BudgetAnswer, PluggedAnswer, Request, Status,
};
use crate::exit_code::ExitCode;
use crate::kvm::control::Activity;

/// How long a microVM may take for an answer: longer than it takes to hold its vCPUs and arm its memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Between looks at how far a new budget has been reached.
const LOOK: Duration = Duration::from_millis(50);

/// The options of `gmem ctl`.
#[derive(Debug, Args)]
pub struct CtlArgs {
    /// The socket that `gmem run --api-sock PATH` listens on
    #[arg(long, value_name = "PATH")]
    api_sock: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say how things stand
    Status {
        /// Print the JSON object instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Change how much host RAM the guest may have
    Budget {
        /// Such as 256M
        #[arg(value_parser = size::parse)]
        size: u64,
        /// Return when the guest is within it; give up after SECONDS
        #[arg(
            long,
            value_name = "SECONDS",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "30",
            value_parser = clap::value_parser!(u32).range(1..=86_400)
        )]
        wait: Option<u32>,
    },
    /// Ask the guest for a balloon of a size: memory that it gives back
    Balloon {
        /// Such as 64M
        #[arg(value_parser = size::parse_or_zero)]
        size: u64,
    },
    /// Ask the guest to have so much memory plugged in, beyond what it started with
    Plug {
        /// Such as 256M
        #[arg(value_parser = size::parse_or_zero)]
        size: u64,
    },
    /// Let no vCPU run until `resume`
    Pause,
    /// Let a paused guest go on
    Resume,
    /// End the run
    Stop,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error(
        "no microVM answers at {}: {source}; give the path of a running `gmem run --api-sock PATH`",
        path.display()
    )]
    Connect { path: PathBuf, source: io::Error },
    #[error("the connection was lost: {0}; has the run ended?")]
    Lost(#[from] io::Error),
    #[error("the microVM's answer is not understood: {0}; use the gmem that runs it")]
    Answer(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the budget is in force, but after {seconds} s {used} of host RAM are still in use, {pages} pages more \
         than it allows: {why}"
    )]
    NotReached {
        seconds: u32,
        used: String,
        pages: u64,
        why: &'static str,
    },
}

/// Carries out the command. What goes wrong is said on stderr.
pub fn execute(args: CtlArgs) -> ExitCode {
    let done = Client::connect(&args.api_sock).and_then(|client| run(client, args.command));
    match done {
        Ok(text) => {
            // Not `println`, which panics where stdout is closed.
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::Success
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "gmem: {error}");
            match error {
                CtlError::Connect { .. } => ExitCode::Usage,
                _ => ExitCode::Failed,
            }
        }
    }
}

/// Returns what is to be printed.
fn run(mut client: Client, command: Command) -> Result<String, CtlError> {
    match command {
        Command::Status { json } => {
            let answer = client.ask(&Request::Status {})?;
            if json {
                return Ok(serde_json::to_string_pretty(&answer)?);
            }
            Ok(lines(&serde_json::from_value(answer)?))
        }
        Command::Budget { size, wait } => {
            let answer = client.ask(&Request::Budget { bytes: size })?;
            let answer: BudgetAnswer = serde_json::from_value(answer)?;
            let used = match wait {
                Some(seconds) => wait_for(&mut client, size, seconds)?,
                None => answer.used_bytes,
            };
            Ok(format!(
                "budget {}, {} in use",
                summary::size(answer.budget_bytes),
                summary::size(used)
            ))
        }
        Command::Balloon { size } => {
            let answer = client.ask(&Request::Balloon { bytes: size })?;
            let BalloonAnswer {
                target_bytes,
                actual_bytes,
            } = serde_json::from_value(answer)?;
            Ok(format!(
                "balloon {} of {}",
                summary::size(actual_bytes),
                summary::size(target_bytes)
            ))
        }
        Command::Plug { size } => {
            let answer = client.ask(&Request::Plug { bytes: size })?;
            let PluggedAnswer {
                requested_bytes,
                plugged_bytes,
            } = serde_json::from_value(answer)?;
            Ok(format!(
                "plugged {} of {}",
                summary::size(plugged_bytes),
                summary::size(requested_bytes)
            ))
        }
        Command::Pause => activity(client.ask(&Request::Pause {})?),
        Command::Resume => activity(client.ask(&Request::Resume {})?),
        Command::Stop => {
            client.ask(&Request::Stop {})?;
            Ok("the run ends".into())
        }
    }
}

fn activity(answer: Value) -> Result<String, CtlError> {
    let ActivityAnswer { state } = serde_json::from_value(answer)?;
    Ok(said(state).to_owned())
}

fn said(state: Activity) -> &'static str {
    match state {
        Activity::Running => "running",
        Activity::Pausing => "pausing",
        Activity::Paused => "paused",
        Activity::Ended => "ended",
    }
}

/// Waits until no more host RAM is in use than `budget`; returns how much is.
fn wait_for(client: &mut Client, budget: u64, seconds: u32) -> Result<u64, CtlError> {
    let deadline = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        let status: Status = serde_json::from_value(client.ask(&Request::Status {})?)?;
        let used = status
            .memory
            .tiers
            .first()
            .map_or(0, |host| host.used_bytes);
        if used <= budget {
            return Ok(used);
        }
        if Instant::now() >= deadline {
            return Err(CtlError::NotReached {
                seconds,
                used: summary::size(used),
                pages: (used - budget) / 4096,
                why: if status.waiting > 0 {
                    "every tier is full"
                } else {
                    "wait longer, or look at the tiers with status"
                },
            });
        }
        thread::sleep(LOOK);
    }
}

/// The status for people.
fn lines(status: &Status) -> String {
    let mut lines = vec![format!(
        "{}; {} of guest memory, {}",
        said(status.state),
        summary::size(status.memory.size_bytes),
        match (status.budget_bytes, status.armed) {
            (None, _) => "plain".to_owned(),
            (Some(budget), false) if status.memory.tiers.iter().any(|tier| tier.kind == "swap") => {
                format!("budget {}, held to by the kernel", summary::size(budget))
            }
            (Some(budget), false) => format!(
                "fits its budget of {}: nothing moves",
                summary::size(budget)
            ),
            (Some(budget), true) => format!("budget {}", summary::size(budget)),
        }
    )];
    if status.waiting > 0 {
        lines.push(format!(
            "every tier is full: {} vCPU access(es) wait for room; a larger budget lets them go on",
            status.waiting
        ));
    }
    for tier in &status.memory.tiers {
        lines.push(format!(
            "  {:<10} {:>10} of {:>10}, at most {:>10}",
            tier.name,
            summary::size(tier.used_bytes),
            summary::size(tier.capacity_bytes),
            summary::size(tier.peak_bytes)
        ));
    }
    for flow in &status.migrations {
        lines.push(format!(
            "  {:<10} to {:<10} {:>10} pages, {:>10}",
            flow.from,
            flow.to,
            flow.pages,
            summary::size(flow.bytes)
        ));
    }
    let cpu = &status.faults.cpu;
    lines.push(format!(
        "{} faults, handled in {:.0} us (median), {:.0} us (p99)",
        cpu.count, cpu.p50_us, cpu.p99_us
    ));
    lines.join("\n")
}

/// A connection to the microVM.
struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Result<Self, CtlError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_LIMIT))?;
            stream.set_write_timeout(Some(ANSWER_LIMIT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self {
                stream: BufReader::new(stream),
            }),
            Err(source) => Err(CtlError::Connect {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Sends a request; returns the members of its answer.
    fn ask(&mut self, request: &Request) -> Result<Value, CtlError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut answer: Value = serde_json::from_str(&answer)?;
        if answer["ok"] != true {
            let error = answer["error"]
                .as_str()
                .unwrap_or("refused, nobody says why");
            return Err(CtlError::Refused(error.to_owned()));
        }
        if let Some(members) = answer.as_object_mut() {
            members.remove("ok");
        }
        Ok(answer)
    }
}
