//! A running microVM as its host sees it: how much memory it has, and what is in it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often memory is sampled: 50 times a second.
const PERIOD: Duration = Duration::from_millis(20);

/// Private memory of a process over its life.
#[derive(Clone, Copy, Debug)]
pub struct RssAnon {
    /// The first value, bytes: taken right after the process came to be, before its guest started.
    pub before: u64,
    /// The largest value, bytes.
    pub peak: u64,
    /// How many were taken.
    pub samples: u32,
}

/// Samples `RssAnon` of `/proc/PID/status` until the process ends. Begin right after its start.
pub fn sample_rss_anon(pid: i32) -> JoinHandle<RssAnon> {
    thread::spawn(move || {
        let before = rss_anon(pid).expect("the process has only just been started");
        let mut seen = RssAnon {
            before,
            peak: before,
            samples: 1,
        };
        while let Some(now) = rss_anon(pid) {
            seen.peak = seen.peak.max(now);
            seen.samples += 1;
            thread::sleep(PERIOD);
        }
        seen
    })
}

/// Whether the process has memory: not once it ends.
pub fn is_alive(pid: i32) -> bool {
    rss_anon(pid).is_some()
}

/// Bytes; `None` once the process is over.
fn rss_anon(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(kib(line) * 1024)
}

/// A mapping of a process.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// What of it is resident, bytes.
    pub resident: u64,
    /// What of that is in huge pages, bytes.
    pub huge: u64,
    /// The kernel's two-letter flags: `um` and `uw` are userfaultfd's missing and write-protect mode.
    pub flags: Vec<String>,
    /// The file's name, if it has one.
    pub name: String,
}

impl Mapping {
    /// Whether it is guest RAM of an armed microVM: only that has userfaultfd's missing mode.
    pub fn is_guest(&self) -> bool {
        self.flags.iter().any(|flag| flag == "um")
    }

    /// Whether it is guest RAM or arena of an armed microVM.
    pub fn is_managed(&self) -> bool {
        self.flags.iter().any(|flag| flag == "um" || flag == "uw")
    }
}

/// All mappings of a process, by `/proc/PID/smaps`; none once it is over.
pub fn mappings(pid: i32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let mut all: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        match (first, all.last_mut()) {
            ("Rss:", Some(last)) => last.resident = kib(line) * 1024,
            ("AnonHugePages:", Some(last)) => last.huge = kib(line) * 1024,
            ("VmFlags:", Some(last)) => last.flags = words.map(String::from).collect(),
            _ => {
                let Some((start, end)) = first.split_once('-') else {
                    continue;
                };
                let address = |text| u64::from_str_radix(text, 16).ok();
                if let (Some(start), Some(end)) = (address(start), address(end)) {
                    all.push(Mapping {
                        start,
                        end,
                        name: words.nth(4).unwrap_or_default().to_owned(),
                        ..Mapping::default()
                    });
                }
            }
        }
    }
    all
}

/// Writes into a process's memory behind its back.
pub fn poke(pid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"))?
        .write_all_at(bytes, address)
}

/// The number in a line such as `Rss:  12 kB`.
fn kib(line: &str) -> u64 {
    let number = line.split_ascii_whitespace().nth(1);
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
