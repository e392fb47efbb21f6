//! The kernel's own oversubscription, to compare with: control groups with a limit, and swap on devices in memory.
//!
//! All of it belongs to the value that made it, and is undone when that is dropped: devices, mounts, groups, settings.
//! Only a process that is killed without notice leaves them behind.

pub mod cgroup;
pub mod device;
mod error;
mod setting;

use std::fs;
use std::io::{self, Write};
use std::process::Command;

pub use error::SwapError;
pub(super) use setting::Setting;

/// Capability to mount, swap and the like: bit of `CapEff` in `/proc/self/status`.
const CAP_SYS_ADMIN: u32 = 21;

/// This process may do what is needed, and there is no swap yet: pages would go there as well.
///
/// # Errors
///
/// It may not, or there is.
pub fn require() -> Result<(), SwapError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    if capabilities & (1 << CAP_SYS_ADMIN) == 0 {
        return Err(SwapError::Lacks {
            what: "the right to make swap (CAP_SYS_ADMIN)",
            found: "it is not among this process' capabilities".into(),
            remedy: "run as root",
        });
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let active = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    match active.collect::<Vec<_>>() {
        none if none.is_empty() => Ok(()),
        some => Err(SwapError::OtherSwap(some.join(", "))),
    }
}

/// Runs a tool of the system's; what it printed.
fn tool(program: &'static str, args: &[&str]) -> Result<String, SwapError> {
    let failed = |found: String| SwapError::Tool {
        command: format!("{program} {}", args.join(" ")),
        found,
    };
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}; {}", output.status, said.trim())))
    }
}

/// Says what could not be undone. Nothing else can be done about it.
fn undone(result: Result<(), impl std::fmt::Display>) {
    if let Err(error) = result {
        let _ = writeln!(io::stderr(), "gmem: not undone: {error}");
    }
}
