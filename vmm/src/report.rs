//! The report: one JSON object about a run, written when it is over.
//!
//! Its shape is a contract, `"schema": 1`. Times are microseconds, sizes bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    /// The guest said that it succeeded.
    Success,
    /// The guest said that it failed, or did something that it cannot go on from.
    GuestFailure,
    /// A signal ended the run.
    Killed,
    /// The run could not be started, or the monitor or the host failed.
    Error,
}

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the shape: 1.
    pub schema: u32,
    /// How the run ended.
    pub outcome: OutcomeKind,
    /// Why, where it did not succeed: the same sentence as on stderr.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How long the start took.
    pub boot: Boot,
    /// What the bundled guest printed as its result.
    pub guest: Option<serde_json::Value>,
    /// Memory, at the end of the run.
    pub memory: Memory,
    /// Virtio devices, in the order of their windows; the member is left out where there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Page faults that were served.
    pub faults: Faults,
    /// What moved where.
    pub migrations: Vec<Migration>,
    /// What the guest verified.
    pub integrity: Integrity,
}

impl Report {
    /// A report that says nothing but how the run ended.
    pub fn new(outcome: OutcomeKind) -> Self {
        Self {
            schema: 1,
            outcome,
            message: None,
            boot: Boot::default(),
            guest: None,
            memory: Memory::default(),
            devices: Vec::new(),
            faults: Faults::default(),
            migrations: Vec::new(),
            integrity: Integrity::default(),
        }
    }
}

/// How long the start took, from the start of the process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Boot {
    /// To the first entry into the guest; null if it was never entered.
    pub to_entry_us: Option<u64>,
    /// To the start of the guest's workload; null if the guest did not say.
    pub to_workload_us: Option<u64>,
}

/// Memory of the microVM.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The guest's.
    pub size_bytes: u64,
    /// Of the logical page table and what else describes pages.
    pub metadata_bytes: u64,
    /// Of the process (RssAnon and RssFile) less guest, arena and tiers.
    pub vmm_rss_bytes: u64,
    /// Huge pages; left out of memory that was never armed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub huge: Option<HugePages>,
    /// Nearest first.
    pub tiers: Vec<Tier>,
}

/// Blocks of 2 MiB beneath the guest that are one frame each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Small pages that became one, ever.
    pub promotions: u64,
    /// Those that count as small pages again, ever.
    pub splits: u64,
    /// What they hold now.
    pub bytes: u64,
}

/// One tier.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tier {
    /// Its name, unique in the report.
    pub name: String,
    /// `host`, `hbm`, `zip`, `file` or `swap`.
    pub kind: String,
    /// What it can hold.
    pub capacity_bytes: u64,
    /// What it holds; for `zip`, stored bytes with their metadata.
    pub used_bytes: u64,
    /// The most it held.
    pub peak_bytes: u64,
    /// How those are who hold its pages, if others do; left out otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Peers>,
}

/// Who holds a tier's pages elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// All are there, and each has every page, or has been sent it.
    pub whole: bool,
    /// Times that one came back with nothing of what it held.
    pub lives: u64,
    /// Reads that were tried again, or elsewhere.
    pub retries: u64,
    /// Pages that came back as something else, and were not taken.
    pub refused_pages: u64,
    /// Pages that were given to one again.
    pub mirrored_again_pages: u64,
}

/// One virtio device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its name, unique in the report.
    pub name: String,
    /// What it counted; null if it was busy when it was asked.
    pub counters: Option<serde_json::Value>,
    /// The rule that its driver broke, if it did: the device does nothing until it is reset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_error: Option<String>,
}

/// Faults, by who had them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Faults {
    /// The vCPUs' faults that reached user space.
    pub cpu: Latency,
    /// The accelerators'.
    pub accel: Latency,
    /// Pages that were brought along with those that were asked for.
    pub prefetched_pages: u64,
    /// How many of them were used later.
    pub prefetch_used_pages: u64,
}

/// A distribution of times from an event's read to the wake.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
}

/// Traffic between two tiers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Migration {
    /// Name of the tier that the pages left.
    pub from: String,
    /// Name of the tier that they went to.
    pub to: String,
    /// How many.
    pub pages: u64,
    /// Their size.
    pub bytes: u64,
}

/// What the guest read back and compared.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Integrity {
    /// Bytes that were compared.
    pub verified_bytes: u64,
    /// Bytes that differed.
    pub mismatched_bytes: u64,
}

impl Integrity {
    /// Takes the members of the same names from the guest's result.
    pub fn of_guest(result: &serde_json::Value) -> Self {
        let member = |name: &str| result.get(name).and_then(|value| value.as_u64());
        Self {
            verified_bytes: member("verified_bytes").unwrap_or(0),
            mismatched_bytes: member("mismatched_bytes").unwrap_or(0),
        }
    }
}

/// The report could not be opened or written.
#[derive(Debug, thiserror::Error)]
#[error("report {} cannot be written: {source}; give --report a file in a writable directory, or -", path.display())]
pub struct ReportError {
    /// The file.
    pub path: PathBuf,
    /// What the host said.
    pub source: io::Error,
}

/// Where the report goes. Opened before the guest starts, so that a wrong path is known at once; a file that
/// was opened and never written is removed again.
#[derive(Debug)]
pub struct ReportSink(Option<Target>);

#[derive(Debug)]
enum Target {
    Stdout,
    File { path: PathBuf, file: File },
}

impl ReportSink {
    /// Opens FILE, or stdout for `-`. A file that exists is emptied.
    pub fn open(target: &str) -> Result<Self, ReportError> {
        if target == "-" {
            return Ok(Self(Some(Target::Stdout)));
        }
        let path = PathBuf::from(target);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path);
        match opened {
            Ok(file) => Ok(Self(Some(Target::File { path, file }))),
            Err(source) => Err(ReportError { path, source }),
        }
    }

    /// Writes the report, as one line. Unless it may `wait`, a stdout that nobody reads is an error.
    pub fn write(mut self, report: &Report, wait: bool) -> Result<(), ReportError> {
        let (path, written) = match self.0.take() {
            Some(Target::File { path, file }) => {
                let written = write_line(&file, report);
                (path, written)
            }
            Some(Target::Stdout) => {
                let stdout = io::stdout().lock();
                let written = if wait || takes_more(stdout.as_fd(), PATIENCE) {
                    write_line(stdout, report)
                } else {
                    Err(io::Error::other("nobody reads it"))
                };
                (PathBuf::from("-"), written)
            }
            None => return Ok(()),
        };
        written.map_err(|source| ReportError { path, source })
    }
}

impl Drop for ReportSink {
    fn drop(&mut self) {
        if let Some(Target::File { path, file }) = self.0.take()
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
        {
            // Nothing to be done where it fails: an empty file stays.
            let _ = fs::remove_file(path);
        }
    }
}

/// How long a stdout has to take the report that nobody may be reading.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether a write of a page to `fd` would return at once, or will within `limit`.
pub(crate) fn takes_more(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let mut polled = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one writable pollfd is given.
    unsafe { libc::poll(&mut polled, 1, limit.as_millis() as libc::c_int) == 1 }
}

fn write_line(mut out: impl Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_are_those_of_schema_1() {
        let mut report = Report::new(OutcomeKind::GuestFailure);
        report.memory.tiers.push(Tier {
            name: "host".into(),
            kind: "host".into(),
            capacity_bytes: 1,
            used_bytes: 2,
            peak_bytes: 3,
            peers: None,
        });
        report.migrations.push(Migration {
            from: "host".into(),
            to: "hbm".into(),
            pages: 1,
            bytes: 4096,
        });
        let value = serde_json::to_value(&report).unwrap();
        let latency = serde_json::json!(
            {"count": 0, "p50_us": 0.0, "p99_us": 0.0, "p999_us": 0.0, "max_us": 0.0});
        assert_eq!(
            value,
            serde_json::json!({
                "schema": 1,
                "outcome": "guest-failure",
                "boot": {"to_entry_us": null, "to_workload_us": null},
                "guest": null,
                "memory": {"size_bytes": 0, "metadata_bytes": 0, "vmm_rss_bytes": 0, "tiers": [
                    {"name": "host", "kind": "host", "capacity_bytes": 1, "used_bytes": 2, "peak_bytes": 3}]},
                "faults": {"cpu": latency, "accel": latency,
                    "prefetched_pages": 0, "prefetch_used_pages": 0},
                "migrations": [{"from": "host", "to": "hbm", "pages": 1, "bytes": 4096}],
                "integrity": {"verified_bytes": 0, "mismatched_bytes": 0},
            })
        );
    }

    #[test]
    fn a_sink_that_is_never_written_leaves_no_file() {
        let path = std::env::temp_dir().join(format!("gmem-unwritten-{}.json", std::process::id()));
        drop(ReportSink::open(path.to_str().unwrap()).unwrap());
        assert!(!path.exists());
        assert!(ReportSink::open("/nowhere/at/all.json").is_err());
    }
}
