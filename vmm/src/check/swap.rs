//! The kernel's swap, and the memory cgroup that makes it take what is beyond a budget.

use std::fs;

use gmem_core::bytes::Bytes;

use super::{Host, Requirement};
use crate::memory::swap::{Group, MONITOR, Version};

const PURPOSE: &str =
    "holds memory beyond its budget (tier swap), for a process in a memory cgroup of its own";
const NO_SWAP: &str = "swap on a device, for example: modprobe zram && echo 1G > /sys/block/zram0/disksize && mkswap \
                       /dev/zram0 && swapon /dev/zram0";

/// Whether there is any swap, and a group.
pub(super) fn swap(host: &Host) -> Requirement {
    let free = free(host);
    let found = match (&group(host), free) {
        (Ok(group), 1..) => {
            let version = match group.version() {
                Version::V1 => "v1",
                Version::V2 => "v2",
            };
            let found = format!("{} of swap free, memory cgroup {version}", Bytes(free));
            return Requirement::found("swap", PURPOSE, found);
        }
        (Ok(_), _) => "no free swap".to_owned(),
        (Err(found), _) => found.clone(),
    };
    Requirement::optional("swap", PURPOSE, found, NO_SWAP)
}

/// What a tier of `bytes` of swap needs beneath a budget of `budget` bytes.
pub(super) fn for_budget(host: &Host, budget: u64, bytes: u64) -> [Requirement; 2] {
    let free = free(host);
    let swap = match free >= bytes {
        true => Requirement::found("swap", PURPOSE, Bytes(free).to_string()),
        false => Requirement::missing(
            "swap",
            PURPOSE,
            format!("{} of swap free, {} wanted", Bytes(free), Bytes(bytes)),
            NO_SWAP,
        ),
    };
    [swap, limit(host, budget, bytes)]
}

/// A group with the limit that makes the kernel swap.
fn limit(host: &Host, budget: u64, bytes: u64) -> Requirement {
    let most = budget.saturating_add(MONITOR);
    let lacking = |found: String, v1: Option<&Group>| {
        let remedy = match v1.map(|group| group.directory().join("gmem")) {
            Some(own) => format!(
                "run it in a group of its own: mkdir {own} && echo {most} > {own}/memory.limit_in_bytes && echo $$ > \
                 {own}/cgroup.procs",
                own = own.display()
            ),
            None => {
                format!("run it by `systemd-run --scope -p MemoryMax={most} gmem run ...` as root")
            }
        };
        Requirement::missing("swap-limit", PURPOSE, found, remedy)
    };
    let group = match group(host) {
        Ok(group) => group,
        Err(found) => return lacking(found, None),
    };
    let place = group.directory().display();
    let v1 = Some(&group).filter(|group| group.version() == Version::V1);
    let found = match group.limit() {
        Ok(Some(limit)) if limit <= most => None,
        Ok(Some(limit)) => Some(format!(
            "the memory cgroup {place} has a limit of {}, more than the host budget and {} for the monitor",
            Bytes(limit),
            Bytes(MONITOR)
        )),
        Ok(None) => Some(format!("the memory cgroup {place} has no limit")),
        Err(error) => Some(format!("the memory cgroup {place} tells no limit: {error}")),
    };
    if let Some(found) = found {
        return lacking(found, v1);
    }
    if let Some(allowed) = group.swap_limit().filter(|&allowed| allowed < bytes) {
        let found = format!("the memory cgroup {place} may swap {} only", Bytes(allowed));
        return lacking(found, v1);
    }
    match group.check_reclaim() {
        Ok(()) => Requirement::found("swap-limit", PURPOSE, place.to_string()),
        Err(error) => lacking(
            format!("the memory cgroup {place} cannot be told to reclaim: {error}"),
            v1,
        ),
    }
}

fn group(host: &Host) -> Result<Group, String> {
    Group::find(&host.cgroup, &host.mountinfo)
        .map_err(|error| format!("no memory cgroup that could have a limit ({error})"))
}

/// Bytes of swap that are free.
fn free(host: &Host) -> u64 {
    let meminfo = fs::read_to_string(&host.meminfo).unwrap_or_default();
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("SwapFree:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
