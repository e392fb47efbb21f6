//! The host's memory: how much is left, and huge pages.

use std::fs;

use super::{Host, Requirement};

/// With less than these bytes, the demonstration (`gmem run` alone) may not fit.
const COMFORTABLE: u64 = 1 << 30;

/// Everything about memory.
pub(super) fn all(host: &Host) -> [Requirement; 3] {
    [available(host), huge_pages(host), khugepaged(host)]
}

fn available(host: &Host) -> Requirement {
    let (name, purpose) = ("memory", "guests and tiers; 1 GiB or more is comfortable");
    let meminfo = fs::read_to_string(&host.meminfo).unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    match kib.map(|kib| kib * 1024) {
        Some(bytes) => {
            let found = format!("{} MiB available", bytes >> 20);
            match bytes >= COMFORTABLE {
                true => Requirement::found(name, purpose, found),
                false => Requirement::optional(
                    name,
                    purpose,
                    found,
                    "end other programs, or give the microVM less: --memory, --tier",
                ),
            }
        }
        None => Requirement::optional(
            name,
            purpose,
            format!("unknown: {} has no MemAvailable", host.meminfo.display()),
            "mount /proc",
        ),
    }
}

fn huge_pages(host: &Host) -> Requirement {
    let (name, purpose) = ("huge-pages", "moves memory in units of 2 MiB (unit=2M)");
    let file = host.huge_pages.join("enabled");
    match setting(&fs::read_to_string(&file).unwrap_or_default()) {
        Some(setting @ ("always" | "madvise")) => Requirement::found(name, purpose, setting),
        Some(setting) => Requirement::optional(
            name,
            purpose,
            setting,
            format!("echo madvise > {}", file.display()),
        ),
        None => Requirement::optional(
            name,
            purpose,
            format!("{} cannot be read", file.display()),
            "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE=y",
        ),
    }
}

/// khugepaged works on memory that asks for huge pages (`madvise`) or on all (`always`); gmem excepts its own.
fn khugepaged(host: &Host) -> Requirement {
    let (name, purpose) = (
        "khugepaged",
        "joins pages behind gmem's back, which costs time; gmem keeps its small pages out of it",
    );
    let enabled = fs::read_to_string(host.huge_pages.join("enabled")).unwrap_or_default();
    let pages = fs::read_to_string(host.huge_pages.join("khugepaged/pages_to_scan"));
    let found = match (setting(&enabled), pages) {
        (None | Some("never"), _) | (_, Err(_)) => "off".to_owned(),
        (Some(setting), Ok(pages)) => format!("{setting}, {} pages a scan", pages.trim()),
    };
    Requirement::found(name, purpose, found)
}

/// The chosen one of a sysfs file such as `always [madvise] never`.
fn setting(file: &str) -> Option<&str> {
    file.split_once('[')?.1.split_once(']').map(|(it, _)| it)
}
