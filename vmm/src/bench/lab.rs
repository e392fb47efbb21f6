//! Where guests in processes of their own are run and compared.

use std::cell::OnceCell;
use std::path::Path;
use std::{fmt, io};

use serde::Serialize;

use super::child::{self, Job, Run, Workplace};
use super::swap::cgroup::Controller;
use super::swap::device::Device;
use super::swap::{self, Setting};
use super::{BenchError, Progress};
use crate::kvm::affinity;
use crate::signals::TerminationSignals;

/// How often a run is repeated whose group was out of memory although something could have been reclaimed.
const TRIES: u32 = 5;
const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Whose pages the kernel swaps, and how.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tuning {
    /// Where to.
    pub device: Kind,
    /// The guest's pages compress to nothing (`fill=random`).
    pub random: bool,
    /// Pages that come along: 2 to the power of this (`vm.page-cluster`).
    pub page_cluster: u8,
    /// Huge pages wherever there is room, instead of what the host has set.
    pub huge_pages: bool,
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match (self.device, self.random) {
            (Kind::Zram, false) => "zram",
            (Kind::Zram, true) => "zram (incompressible)",
            (Kind::Loop, _) => "a loop device",
        };
        write!(f, "{device}, page-cluster {}", self.page_cluster)?;
        match self.huge_pages {
            true => write!(f, ", huge pages"),
            false => Ok(()),
        }
    }
}

/// A device in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Compressed memory, lz4.
    Zram,
    /// A loop device over a file in a tmpfs.
    Loop,
}

/// What runs have in common. Dropping it undoes all that was changed on the host.
pub(super) struct Lab<'a> {
    /// What the kernel can swap to, once it has been asked for: of `device_bytes` each.
    devices: [OnceCell<Device>; 2],
    device_bytes: u64,
    /// Without, there is no swap to compare with.
    groups: Option<Controller>,
    place: Workplace,
    cpus: Vec<usize>,
    signals: &'a TerminationSignals,
    /// Where to tell how far things are.
    pub(super) progress: &'a dyn Progress,
}

impl<'a> Lab<'a> {
    /// For guests of `memory` bytes and so many vCPUs, each on a CPU of its own as long as there are some: the same ones
    /// in every run. With `swap` it can be compared with.
    pub(super) fn new(
        memory: u64,
        vcpus: usize,
        swap: bool,
        signals: &'a TerminationSignals,
        progress: &'a dyn Progress,
    ) -> Result<Self, BenchError> {
        if swap {
            swap::require()?;
            let (others, _) = swap::others()?;
            if !others.is_empty() {
                progress.line(format!(
                    "swap is active on {} as well; what is measured has a higher priority, and other processes' pages may go there too",
                    others.join(", ")
                ));
            }
        }
        let allowed = affinity::allowed_cpus()?;
        let cpus: Vec<usize> = allowed.into_iter().rev().cycle().take(vcpus).collect();
        if cpus.is_empty() {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        }
        Ok(Self {
            devices: Default::default(),
            // More than all memory: pages that were read back keep their place.
            device_bytes: memory + memory / 4,
            groups: swap.then(Controller::find).transpose()?,
            place: Workplace::new()?,
            cpus,
            signals,
            progress,
        })
    }

    fn device(&self, kind: Kind) -> Result<&Device, BenchError> {
        let place = &self.devices[kind as usize];
        if let Some(device) = place.get() {
            return Ok(device);
        }
        let device = match kind {
            Kind::Zram => Device::zram(self.device_bytes)?,
            Kind::Loop => Device::in_memory(self.place.path(), self.device_bytes)?,
        };
        Ok(place.get_or_init(|| device))
    }

    /// Whether there is swap to compare with.
    pub(super) fn has_swap(&self) -> bool {
        self.groups.is_some()
    }

    /// Runs a guest on what `tiers` name; where there are control groups, in one with that limit.
    pub(super) fn managed(
        &self,
        (side, workload): (&'static str, &str),
        memory: u64,
        tiers: &[String],
        limit: Option<u64>,
    ) -> Result<Run, BenchError> {
        let job = Job {
            side,
            memory,
            tiers,
            cpus: &self.cpus,
            workload,
            device: None,
            starter: None,
        };
        self.run(&job, limit)
    }

    /// Runs a guest on plain memory of which the kernel swaps what is beyond the limit. Only where there is swap.
    pub(super) fn swapped(
        &self,
        workload: &str,
        memory: u64,
        limit: u64,
        tuning: Tuning,
    ) -> Result<Run, BenchError> {
        let device = self.device(tuning.device)?;
        let cluster = tuning.page_cluster.to_string();
        let _cluster = Setting::change(Path::new(PAGE_CLUSTER), &cluster)?;
        let _huge = match tuning.huge_pages {
            true => Some(Setting::change(Path::new(HUGE_PAGES), "always")?),
            false => None,
        };
        let _active = device.activate()?;
        let job = Job {
            side: "swap",
            memory,
            tiers: &["none".to_owned()],
            cpus: &self.cpus,
            workload,
            device: Some(device),
            starter: None,
        };
        self.run(&job, Some(limit))
    }

    fn run(&self, job: &Job<'_>, limit: Option<u64>) -> Result<Run, BenchError> {
        let mut tries = 1;
        loop {
            let groups = self.groups.as_ref();
            let group = groups.map(|groups| groups.group(limit)).transpose()?;
            match child::run(job, group.as_ref(), &self.place, self.signals) {
                Err(BenchError::OutOfMemory { side }) if tries < TRIES => self.progress.line(
                    format!("the guest on {side} was killed as out of memory; it is run again"),
                ),
                ended => return ended,
            }
            tries += 1;
        }
    }
}
