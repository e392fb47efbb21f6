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

/// The highest priority that swap can have.
const MOST: i32 = 32767;

/// This process may do what is needed.
///
/// # Errors
///
/// It may not.
pub fn require() -> Result<(), SwapError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    if capabilities & (1 << CAP_SYS_ADMIN) != 0 {
        return Ok(());
    }
    Err(SwapError::Lacks {
        what: "the right to make swap (CAP_SYS_ADMIN)",
        found: "it is not among this process' capabilities".into(),
        remedy: "run as root",
    })
}

/// Swap that somebody else has: its names, and a priority above all of it.
///
/// # Errors
///
/// There is none above.
pub(super) fn others() -> Result<(Vec<String>, i32), SwapError> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let (names, above) = priority_above(&swaps);
    match above <= MOST {
        true => Ok((names, above)),
        false => Err(SwapError::OtherSwap(names.join(", "))),
    }
}

/// Names in `/proc/swaps`, and a priority that is higher than each.
fn priority_above(swaps: &str) -> (Vec<String>, i32) {
    let mut above = 1;
    let names = swaps.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let priority: i32 = words.next_back()?.parse().ok()?;
        above = above.max(priority + 1);
        Some(name)
    });
    (names.collect(), above)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_swap_comes_before_what_there_is() {
        let heading = "Filename\tType\tSize\tUsed\tPriority\n";
        assert_eq!(priority_above(heading), (vec![], 1));
        let low = format!("{heading}/swapfile file 1048572 136 -2\n");
        assert_eq!(priority_above(&low), (vec!["/swapfile".into()], 1));
        let high = format!("{low}/dev/zram0 partition 1048572\t0 50\n");
        assert_eq!(priority_above(&high).1, 51);
    }
}
