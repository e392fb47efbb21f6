//! userfaultfd: who lets this process handle the kernel's own faults, and what it can do.

use std::fs::{self, OpenOptions};

use super::{Host, Requirement};
use crate::memory::userfault::{Features, OpenError};

const DOOR: (&str, &str) = (
    "userfaultfd",
    "pages fault to gmem, also when the kernel touches them for the guest",
);

/// Bit of `CAP_SYS_PTRACE` in a capability mask.
const CAP_SYS_PTRACE: u32 = 19;

/// A feature, its name, what it is for, and whether nothing runs without it.
const FEATURES: [(&str, Features, &str, bool); 5] = [
    (
        "userfaultfd-move",
        Features::MOVE,
        "moves page frames between guest and arena",
        true,
    ),
    (
        "userfaultfd-wp",
        Features::WRITE_PROTECT,
        "registers the arena; finds pages that the guest has not changed",
        true,
    ),
    (
        "userfaultfd-poison",
        Features::POISON,
        "ends a microVM cleanly whose page is lost",
        true,
    ),
    (
        "userfaultfd-thread",
        Features::THREAD_ID,
        "tells which vCPU waits for a page",
        true,
    ),
    (
        "userfaultfd-async",
        Features::WP_ASYNC,
        "finds changed pages without a fault for each",
        false,
    ),
];

/// The door and, if it opens, the features.
pub(super) fn all(host: &Host) -> Vec<Requirement> {
    let features = match (host.userfaultfd_features)() {
        Ok(features) => features,
        Err(error) => return vec![closed(host, &error)],
    };
    let mut all = vec![Requirement::found(DOOR.0, DOOR.1, door(host))];
    all.extend(
        FEATURES
            .into_iter()
            .map(|(name, feature, purpose, required)| {
                let remedy = "boot Linux 6.8 or newer, with CONFIG_HAVE_ARCH_USERFAULTFD_WP";
                match (features.contains(feature), required) {
                    (true, _) => Requirement::found(name, purpose, "available"),
                    (false, true) => Requirement::missing(name, purpose, "not available", remedy),
                    (false, false) => Requirement::optional(name, purpose, "not available", remedy),
                }
            }),
    );
    all
}

/// By which of its doors a userfaultfd was opened: those that this process finds open.
fn door(host: &Host) -> String {
    let mut doors = Vec::new();
    if device(host) {
        doors.push(format!("by {}", host.userfaultfd.display()));
    }
    if may_trace(host) {
        doors.push("by CAP_SYS_PTRACE".to_owned());
    }
    if sysctl(host) {
        doors.push("by sysctl vm.unprivileged_userfaultfd=1".to_owned());
    }
    match doors.is_empty() {
        true => "opened".to_owned(),
        false => format!("opened: {}", doors.join(", ")),
    }
}

fn closed(host: &Host, error: &OpenError) -> Requirement {
    let device = host.userfaultfd.display();
    let (found, remedy) = match error {
        OpenError::Absent => (
            "this kernel has none".to_owned(),
            "boot a kernel with CONFIG_USERFAULTFD=y, or allow the system call in the container's seccomp \
             profile"
                .to_owned(),
        ),
        OpenError::NotPermitted { .. } => (
            format!(
                "not permitted: {device} {}, CAP_SYS_PTRACE is not held, sysctl \
                 vm.unprivileged_userfaultfd is not 1",
                match host.userfaultfd.exists() {
                    true => "cannot be opened by this user",
                    false => "does not exist",
                }
            ),
            format!(
                "one of: setfacl -m u:USER:rw {device}; run with CAP_SYS_PTRACE; \
                 sysctl vm.unprivileged_userfaultfd=1"
            ),
        ),
        other => (
            other.to_string(),
            "boot Linux 6.8 or newer, and raise the limit on open files (ulimit -n) if that is the cause"
                .to_owned(),
        ),
    };
    Requirement::missing(DOOR.0, DOOR.1, found, remedy)
}

fn device(host: &Host) -> bool {
    let path = &host.userfaultfd;
    OpenOptions::new().read(true).write(true).open(path).is_ok()
}

fn may_trace(host: &Host) -> bool {
    let status = fs::read_to_string(&host.status).unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_SYS_PTRACE & 1 != 0)
}

fn sysctl(host: &Host) -> bool {
    fs::read_to_string(&host.unprivileged_userfaultfd).is_ok_and(|value| value.trim() == "1")
}
