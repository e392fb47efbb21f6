//! What this host must have to run microVMs, whether it has it, and how to get what is missing.
//!
//! Two callers:
//!
//! - `gmem check` calls [`run`], prints what it writes and exits with 0 if it returns `true`, with 3
//!   otherwise: `let ok = check::run(&mut io::stdout().lock(), json)?;`
//! - `gmem run` calls [`require_kernel`], [`require_kvm`] and, where memory is to be armed,
//!   [`require_userfaultfd`] at its start. They take microseconds; their error is one line with cause and
//!   remedy, for exit code 3.
//!
//! Where everything is looked for is in [`Host`], so that tests can show other hosts.

mod cpu;
mod host;
mod kernel;
mod kvm;
mod memory;
mod render;
mod require;
mod requirement;
mod swap;
mod userfault;

#[cfg(test)]
mod tests;

pub use host::Host;
pub use require::{HostLacks, require_kernel, require_kvm, require_swap, require_userfaultfd};
pub use requirement::{Requirement, Status};

use std::io::{self, Write};

/// Everything that is looked at on this host, in the order in which it is shown.
pub fn required() -> Vec<Requirement> {
    required_of(&Host::this())
}

/// Everything that is looked at on `host`.
pub fn required_of(host: &Host) -> Vec<Requirement> {
    let mut all = vec![kernel::linux(host)];
    all.extend(kvm::all(host));
    all.push(cpu::virtualization(host));
    all.extend(userfault::all(host));
    all.push(kernel::pagemap_scan());
    all.push(kernel::memfd());
    all.extend(memory::all(host));
    all.push(swap::swap(host));
    all.push(cpu::allowed());
    all
}

/// Looks at this host and writes what it found: aligned lines, or one JSON object if `json`.
///
/// Returns whether all that is required was found.
///
/// # Errors
///
/// Those of `out`.
pub fn run(out: &mut impl Write, json: bool) -> io::Result<bool> {
    let all = required();
    match json {
        true => render::json(out, &all)?,
        false => render::text(out, &all)?,
    }
    Ok(all.iter().all(Requirement::is_met))
}
