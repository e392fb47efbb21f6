//! `gmem enter`: what a measurement starts in a control group begins there, so that all of its memory is counted.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use super::stderr;
use crate::exit_code::ExitCode;

/// The options of `gmem enter`.
#[derive(Debug, Args)]
pub struct EnterArgs {
    /// The group's file of processes
    members: PathBuf,
    /// What this program is to do there
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    args: Vec<OsString>,
}

/// Returns only where it fails.
pub fn execute(args: EnterArgs) -> ExitCode {
    // 0 is the process that writes it.
    let error = match fs::write(&args.members, "0") {
        Ok(()) => Command::new("/proc/self/exe").args(args.args).exec(),
        Err(error) => error,
    };
    let message = format!("gmem: {}: {error}\n", args.members.display());
    stderr::write(&message, None);
    ExitCode::HostLacks
}
