//! Tier `swap` on real KVM, in a memory cgroup of its own and with swap of its own: zram. Wants root.
//!
//! Where neither can be had a test says so on stderr, as nothing else is wrong then.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gmem_vmm::memory::swap::{Group, Version};
use serde_json::Value;
use support::gmem::{Finished, Running, TempDir, command, require_kvm};

const MIB: u64 = 1 << 20;

/// Swap is everybody's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Swap on a device of compressed memory, and a group with a limit. Dropping it leaves the host as it was.
struct Setting {
    zram: u32,
    group: PathBuf,
    version: Version,
    _alone: MutexGuard<'static, ()>,
}

impl Setting {
    /// `None`, with the reason on stderr, if this host cannot have it.
    fn new(limit: u64) -> Option<Self> {
        require_kvm();
        Self::make(limit)
            .map_err(|reason| {
                // Not `eprintln`, which nobody sees of a test that passes.
                let _ = writeln!(std::io::stderr(), "NOT TESTED, tier swap: {reason}");
            })
            .ok()
    }

    fn make(limit: u64) -> Result<Self, String> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let own = Group::of_this_process().map_err(|error| format!("no memory cgroup: {error}"))?;
        let group = own
            .directory()
            .join(format!("gmem-test-{}", std::process::id()));
        fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        let zram = fs::read_to_string("/sys/class/zram-control/hot_add")
            .map_err(|error| format!("no zram device: {error}"))
            .and_then(|number| number.trim().parse().map_err(|_| format!("zram{number}")));
        let zram = zram.inspect_err(|_| drop(fs::remove_dir(&group)))?;
        let setting = Self {
            zram,
            group,
            version: own.version(),
            _alone: alone,
        };
        let device = setting.device();
        write(
            Path::new(&format!("/sys/block/zram{zram}/disksize")),
            "256M",
        )?;
        succeed(Command::new("mkswap").arg(&device))?;
        succeed(Command::new("swapon").arg(&device))?;
        write(&setting.limit(), &limit.to_string())?;
        Ok(setting)
    }

    fn device(&self) -> String {
        format!("/dev/zram{}", self.zram)
    }

    fn limit(&self) -> PathBuf {
        self.group.join(match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        })
    }

    /// The most that the group's processes had, bytes.
    fn peak(&self) -> u64 {
        let name = match self.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        let text = fs::read_to_string(self.group.join(name)).unwrap();
        text.trim().parse().unwrap()
    }

    /// Runs gmem in the group.
    fn run(&self, options: &[&str]) -> Finished {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
            self.group.display()
        );
        let gmem = command(options);
        let mut inside = Command::new("sh");
        inside
            .args(["-c", &enter])
            .arg(gmem.get_program())
            .args(options);
        Running::spawn(support::gmem::prepared(inside)).finish()
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = succeed(Command::new("swapoff").arg(self.device()));
        let _ = fs::write(format!("/sys/block/zram{}/reset", self.zram), "1");
        let _ = fs::write("/sys/class/zram-control/hot_remove", self.zram.to_string());
        // What is left of a process that has ended goes after it.
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.group).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

const TIERS: [&str; 7] = [
    "run",
    "--memory",
    "96M",
    "--tier",
    "host:32M",
    "--tier",
    "swap:128M",
];

#[test]
fn memory_beyond_the_budget_is_swapped_and_verified() {
    let limit = 48 * MIB;
    let Some(setting) = Setting::new(limit) else {
        return;
    };
    let dir = TempDir::new();
    let report = dir.path().join("report.json");
    let options = [
        "--report",
        report.to_str().unwrap(),
        "--workload",
        "verify epochs=3",
    ];
    let finished = setting.run(&[&TIERS[..], &options].concat());
    assert_eq!(finished.code(), 0, "{finished:?}");
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert_eq!(report["integrity"]["mismatched_bytes"], 0);
    assert!(report["integrity"]["verified_bytes"].as_u64().unwrap() > 200 * MIB);
    let tiers = report["memory"]["tiers"].as_array().unwrap();
    let names: Vec<_> = tiers
        .iter()
        .map(|tier| tier["kind"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["host", "swap"]);
    let peak = |tier: usize| tiers[tier]["peak_bytes"].as_u64().unwrap();
    assert!((20 * MIB..=limit).contains(&peak(0)), "{tiers:?}");
    assert!((40 * MIB..=96 * MIB).contains(&peak(1)), "{tiers:?}");
    assert!(setting.peak() <= limit, "{}", setting.peak());
    let left = fs::read_to_string(setting.limit()).unwrap();
    assert_eq!(left.trim(), limit.to_string(), "the limit is as it was");
}

#[test]
fn a_group_that_does_not_hold_to_the_budget_ends_with_3_and_a_remedy() {
    let Some(setting) = Setting::new(49 * MIB) else {
        return;
    };
    let finished = setting.run(&TIERS);
    finished.expect_failure(3, &["swap-limit", "a limit of 49M", "50331648"]);
}
