//! The command line of `gmem`.
//!
//! Wrong command lines end with exit code 2 and a line on stderr that says what is wrong and what to do.
pub mod memory;
pub mod run;
pub mod size;
pub mod tier;

use std::time::Instant;

use clap::{Parser, Subcommand};

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
    Run(run::RunArgs),
}

/// Does what the process's arguments ask for. `started` is when the process began.
pub fn main(started: Instant) -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::execute(args, started),
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
