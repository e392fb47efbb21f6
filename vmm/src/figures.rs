//! How a microVM's memory stands, in the shape of the report: for the report, and for whoever asks meanwhile.

use gmem_core::engine::{Snapshot, TierSnapshot};
use gmem_core::stats::{Flow, LatencySummary};
use gmem_devices::virtio::MmioDevice;

use crate::devices::Devices;
use crate::memory::managed::ManagedMemory;
use crate::report::{Device, Faults, HugePages, Latency, Memory, Migration, Peers, Tier};

/// The numbers at one moment; not of one instant while pages move.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The engine's own numbers, if memory is armed.
    pub snapshot: Option<Snapshot>,
    /// Sizes.
    pub memory: Memory,
    /// Virtio devices.
    pub devices: Vec<Device>,
    /// Faults that were served.
    pub faults: Faults,
    /// What moved where.
    pub migrations: Vec<Migration>,
}

impl Figures {
    /// Takes the numbers of `memory` and `devices`. Waits for neither.
    pub fn of(memory: &ManagedMemory, devices: &Devices) -> Self {
        let resident = memory.resident_bytes();
        let mut figures = Self {
            snapshot: memory.snapshot(),
            memory: Memory {
                size_bytes: memory.ram().size(),
                vmm_rss_bytes: process_bytes().saturating_sub(resident),
                ..Memory::default()
            },
            devices: devices.iter().map(device).collect(),
            faults: Faults::default(),
            migrations: Vec::new(),
        };
        if let Some(snapshot) = &figures.snapshot {
            figures.memory.metadata_bytes = snapshot.metadata_bytes;
            figures.memory.huge = Some(HugePages {
                promotions: snapshot.promotions,
                splits: snapshot.splits,
                bytes: snapshot.huge_bytes,
            });
            figures.memory.tiers = snapshot.tiers.iter().map(tier).collect();
            figures.faults = faults(snapshot);
            figures.migrations = migrations(memory);
        } else if let Some(budget) = memory.budget() {
            let swapped = memory.swapped();
            figures.memory.tiers.push(Tier {
                name: "host".into(),
                kind: "host".into(),
                capacity_bytes: budget,
                used_bytes: resident,
                // Without swap plain memory only grows.
                peak_bytes: swapped.map_or(resident, |(_, of)| of.resident_peak.max(resident)),
                peers: None,
            });
            figures.memory.tiers.extend(swapped.map(|(bytes, of)| Tier {
                name: "swap".into(),
                kind: "swap".into(),
                capacity_bytes: bytes,
                used_bytes: of.swapped,
                peak_bytes: of.swapped_peak,
                peers: None,
            }));
        }
        figures
    }
}

fn device(device: &MmioDevice) -> Device {
    let (counters, driver_error) = device.metrics().unzip();
    Device {
        name: device.name().to_owned(),
        counters,
        driver_error: driver_error.flatten(),
    }
}

fn tier(tier: &TierSnapshot) -> Tier {
    Tier {
        name: tier.name.clone(),
        kind: tier.kind.to_string(),
        capacity_bytes: tier.capacity_bytes,
        used_bytes: tier.used_bytes,
        peak_bytes: tier.peak_bytes,
        peers: tier.peers.map(|peers| Peers {
            whole: peers.whole,
            lives: peers.lives,
            retries: peers.retries,
            refused_pages: peers.refused_pages,
            mirrored_again_pages: peers.mirrored_again_pages,
        }),
    }
}

fn latency(of: &LatencySummary) -> Latency {
    Latency {
        count: of.count,
        p50_us: of.p50_us,
        p99_us: of.p99_us,
        p999_us: of.p999_us,
        max_us: of.max_us,
    }
}

fn faults(snapshot: &Snapshot) -> Faults {
    Faults {
        cpu: latency(&snapshot.faults),
        accel: latency(&snapshot.device_faults),
        prefetched_pages: snapshot.prefetched_pages,
        prefetch_used_pages: snapshot.prefetch_used_pages,
    }
}

fn migrations(memory: &ManagedMemory) -> Vec<Migration> {
    let Some(engine) = memory.engine() else {
        return Vec::new();
    };
    let name = |site| engine.site_name(site);
    let migration = |flow: &Flow| Migration {
        from: name(flow.from),
        to: name(flow.to),
        pages: flow.pages,
        bytes: flow.bytes(),
    };
    engine.stats().flows().iter().map(migration).collect()
}

/// RssAnon and RssFile of this process, bytes.
fn process_bytes() -> u64 {
    status_bytes("RssAnon:") + status_bytes("RssFile:")
}

/// A size that `/proc/self/status` gives, bytes; 0 if it does not.
pub(crate) fn status_bytes(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
