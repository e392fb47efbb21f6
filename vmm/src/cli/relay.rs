//! `gmem relay`: what a measurement puts between two hosts, so that they are far from each other.

use std::io::{self, Write};
use std::net::TcpListener;
use std::time::Duration;

use clap::Args;

use super::stderr;
use crate::bench::delay::relay;
use crate::exit_code::ExitCode;

/// The options of `gmem relay`.
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// Where it listens; it says there what the port is
    listen: String,
    /// Where everything goes
    to: String,
    /// How much later, microseconds
    delay_us: u64,
}

/// Returns only where it fails.
pub fn execute(args: &RelayArgs) -> ExitCode {
    let run = || -> io::Result<()> {
        let listener = TcpListener::bind(&args.listen)?;
        writeln!(io::stdout(), "{}", listener.local_addr()?)?;
        relay::run(&listener, &args.to, Duration::from_micros(args.delay_us))
    };
    if let Err(error) = run() {
        stderr::write(&format!("gmem: relay at {}: {error}\n", args.listen), None);
    }
    ExitCode::HostLacks
}
