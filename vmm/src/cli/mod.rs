//! The command line of `gmem`.
//!
//! Wrong command lines end with exit code 2 and a line on stderr that says what is wrong and what to do.

pub mod accel;
pub mod bench;
pub mod ctl;
mod device_args;
mod enter;
mod farewell;
mod keys;
pub mod memory;
pub mod pager;
mod plan;
mod record;
mod relay;
pub mod run;
pub mod size;
mod status;
mod stderr;
mod summary;
pub mod tier;
mod watch;

use std::time::Instant;

use clap::{Args, Parser, Subcommand};

use crate::check;
use crate::exit_code::ExitCode;

/// A microVM monitor with Generalized Memory Management beneath its guests.
#[derive(Debug, Parser)]
#[command(name = "gmem", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a microVM until it ends.
    Run(Box<run::RunArgs>),
    /// Look at a running microVM and control it.
    Ctl(ctl::CtlArgs),
    /// Lend this host's memory to microVMs here and elsewhere.
    Pager(pager::PagerArgs),
    /// Measure what the memory system costs, on this host
    Bench(bench::BenchArgs),
    /// Join a control group, then do what the rest of the command line says: for measurements
    #[command(hide = true)]
    Enter(enter::EnterArgs),
    /// Pass bytes on between two hosts, later: for measurements
    #[command(hide = true)]
    Relay(relay::RelayArgs),
    /// List what this host has of what gmem needs.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Does what the process's arguments ask for. `started` is when the process began.
pub fn main(started: Instant) -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::execute(*args, started),
        Command::Ctl(args) => ctl::execute(args),
        Command::Pager(args) => pager::execute(args),
        Command::Bench(args) => bench::execute(args),
        Command::Enter(args) => enter::execute(args),
        Command::Relay(args) => relay::execute(&args),
        Command::Check(CheckArgs { json }) => match check::run(&mut std::io::stdout(), json) {
            Ok(true) => ExitCode::Success,
            // Nobody reads what is found: the same as nothing found.
            Ok(false) | Err(_) => ExitCode::HostLacks,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
