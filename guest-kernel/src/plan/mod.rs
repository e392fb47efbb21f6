//! What the command line asks for: a workload and its options.
//!
//! Options that most workloads take (sizes are in bytes, with an optional K, M, G or T):
//!
//! | option | default | meaning |
//! |---|---|---|
//! | `seed=` | 1 | of contents and orders |
//! | `working_set=` | all free RAM | how much memory is used, from the lowest address on |
//! | `cpus=` | all | how many vCPUs work |
//! | `fill=` | `mixed` | content: `mixed`, `random`, `compressible`, `zero` |
//! | `fault_threshold_us=` | 5 | an access that takes longer counts as a fault |
//! | `ops=` | 20,000,000, at most 5 s | operations of the timed phase, of all vCPUs together; given, there is no limit of time unless `seconds=` is given too |
//! | `seconds=` | | limit of time of the timed phase |
//! | `warmup=` | one a page, at most 2 s | operations before the timed phase |
//! | `write=` | 30; `gather`: 1 | percent of the operations that write |
//!
//! | workload | own options | what it does |
//! |---|---|---|
//! | `verify` | `epochs=3` | writes every page, reads it back in another order, each epoch anew; `ops=` limits page reads and writes by using fewer pages |
//! | `scan` | | pages in ascending order, again and again |
//! | `stride` | `stride=17` | every so many pages, then the pages between |
//! | `uniform` | | pages at random |
//! | `zipf` | `theta=0.99` | pages by Zipf's law, ranks scattered |
//! | `hotscan` | `hot=10` `hot_ops=90` `together=off` | percent of the pages, scattered or `together`, get so many percent of the operations; the rest scan the other pages |
//! | `phase` | `hot=10` `hot_ops=90` `together=off` `phase_ops=` 16 a hot page | the hot pages change every so many operations; the rest are pages at random |
//! | `faults` | `passes=2` | one access to every page a pass, in a random order, each one timed alone |
//! | `gather` | `theta=0.99` `row=256` `batch=256` `hints=off` | accelerators look up rows of a table by Zipf's law, and vCPUs and they increment counters in the same pages |
//! | `layers` | `layers=8` `rows=2` `epochs=3` `hints=off` | accelerators multiply a few rows by weights, layer by layer; takes `seed=`, `working_set=` and `cpus=` |
//! | `kvcache` | `sequences=` 1 MiB each `width=512` `check=1` `theta=0.99` `hints=off` | accelerators attend to sequences that grow by a token a step; takes `seed=`, `working_set=`, `cpus=`, `ops=` and `seconds=` |
//! | `pingpong` | `burst=1` | vCPUs and accelerators add to words of the same memory: 4 MiB, unless `working_set=` says otherwise; takes `seed=`, `cpus=`, `ops=`, `seconds=` and `fault_threshold_us=` |
//! | `hostile` | `device=all` `rounds=100` | drivers that follow no rule on every virtio device, or on those of one kind: `rng`, `blk`, `net`, `vsock`, `console`, `balloon`, `mem`, `xpu`, `gmem` |
//! | `donor` | `size=` what fits | lends memory of the first accelerator to other microVMs, until the monitor ends it; takes `seed=` |
//! | `none` | | nothing: a result at once |
//! | `spin` | | error path: never ends |
//! | `wild` | `at=` first 2 MiB after RAM, or 2 GiB | error path: writes where no RAM is |
//! | `triple` | | error path: a triple fault |
//! | `hlt0` | `pages=` all | error path: touches memory at CPL0 |

mod error;
mod options;
mod workload;

pub use error::PlanError;
use options::Options;
pub use workload::{Target, Workload};

use crate::pattern::Fill;
use crate::work::hostile::LEAST_PAGES;

/// How long a phase lasts: until either bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Operations of all CPUs together.
    pub ops: u64,
    /// Seconds.
    pub seconds: Option<u64>,
}

/// Everything that the command line says about the workload. Defaults are filled in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The workload's name.
    pub name: &'static str,
    /// The workload.
    pub workload: Workload,
    /// `seed=`
    pub seed: u64,
    /// `working_set=`, bytes
    pub working_set: Option<u64>,
    /// `cpus=`
    pub cpus: Option<u64>,
    /// `fill=`
    pub fill: Fill,
    /// `fault_threshold_us=`
    pub fault_threshold_us: u64,
    /// `write=`, percent
    pub write_percent: u64,
    /// `ops=`
    pub ops: Option<u64>,
    /// `seconds=`
    pub seconds: Option<u64>,
    /// `warmup=`
    pub warmup: Option<u64>,
}

const DEFAULT_OPS: u64 = 20_000_000;
const DEFAULT_SECONDS: u64 = 5;
const DEFAULT_WARMUP_SECONDS: u64 = 2;
/// A block of 2 MiB, and as much for rings.
const PINGPONG_PAGES: u64 = 2 * crate::memory::BLOCK_PAGES;

/// Additions of a command of `pingpong`, at most: the words of 64 KiB, the least data that there is.
const MOST_BURST: u64 = 1 << 13;

/// Options by groups of workloads.
const MEMORY: &[&str] = &[
    "seed",
    "working_set",
    "cpus",
    "fill",
    "fault_threshold_us",
    "ops",
];
const ROOM: &[&str] = &["seed", "working_set", "cpus"];
const SEEDED: &[&str] = &["seed", "cpus", "fill"];
const ACCESS: &[&str] = &["seconds", "warmup", "write"];

/// Name, groups of options, own options.
type Known = (
    &'static str,
    &'static [&'static [&'static str]],
    &'static [&'static str],
);

const KNOWN: [Known; 19] = [
    ("verify", &[MEMORY], &["epochs"]),
    ("scan", &[MEMORY, ACCESS], &[]),
    ("stride", &[MEMORY, ACCESS], &["stride"]),
    ("uniform", &[MEMORY, ACCESS], &[]),
    ("zipf", &[MEMORY, ACCESS], &["theta"]),
    (
        "hotscan",
        &[MEMORY, ACCESS],
        &["hot", "hot_ops", "together"],
    ),
    (
        "phase",
        &[MEMORY, ACCESS],
        &["hot", "hot_ops", "together", "phase_ops"],
    ),
    ("faults", &[MEMORY], &["write", "passes"]),
    (
        "gather",
        &[MEMORY],
        &["seconds", "write", "theta", "row", "batch", "hints"],
    ),
    ("layers", &[ROOM], &["layers", "rows", "epochs", "hints"]),
    (
        "kvcache",
        &[ROOM],
        &[
            "ops",
            "seconds",
            "sequences",
            "width",
            "check",
            "theta",
            "hints",
        ],
    ),
    (
        "pingpong",
        &[ROOM],
        &["ops", "seconds", "fault_threshold_us", "burst"],
    ),
    ("hostile", &[SEEDED], &["device", "rounds"]),
    ("donor", &[], &["seed", "size"]),
    ("none", &[], &[]),
    ("spin", &[], &[]),
    ("wild", &[], &["at"]),
    ("triple", &[], &[]),
    ("hlt0", &[], &["pages"]),
];

impl Plan {
    /// Reads `WORKLOAD key=value ...`.
    ///
    /// # Errors
    ///
    /// If the workload or an option is not known, an option is given twice, or a value makes no sense.
    pub fn parse(text: &str) -> Result<Self, PlanError<'_>> {
        let mut words = text.split_ascii_whitespace();
        let name = words.next().unwrap_or("");
        let &known = KNOWN
            .iter()
            .find(|known| known.0 == name)
            .ok_or(PlanError::UnknownWorkload { name })?;
        let options = Options::collect(known, words)?;
        let percent =
            |key, default| options.number(key, default, 0..=100, "a percentage, 0 to 100");
        let count = |key, default| options.number(key, default, 1..=u64::MAX, "a number above 0");
        let maybe = |key| options.optional(key, 1..=u64::MAX, "a number above 0");
        let hot = || options.number("hot", 10, 1..=99, "a percentage, 1 to 99");
        let workload = match known.0 {
            "verify" => Workload::Verify {
                epochs: count("epochs", 3)?,
            },
            "scan" => Workload::Scan,
            "stride" => Workload::Stride {
                stride: count("stride", 17)?,
            },
            "uniform" => Workload::Uniform,
            "zipf" => Workload::Zipf {
                theta: options.theta(0.99)?,
            },
            "hotscan" => Workload::HotScan {
                hot: hot()?,
                hot_ops: percent("hot_ops", 90)?,
                together: options.truth("together")?,
            },
            "phase" => Workload::Phase {
                hot: hot()?,
                hot_ops: percent("hot_ops", 90)?,
                phase_ops: maybe("phase_ops")?,
                together: options.truth("together")?,
            },
            "faults" => Workload::Faults {
                passes: count("passes", 2)?,
            },
            "gather" => Workload::Gather {
                theta: options.theta(0.99)?,
                row: options.power("row", 256, 64..=2048, "a power of two from 64 to 2048")?,
                batch: options.number("batch", 256, 1..=4096, "a number from 1 to 4096")?,
                hints: options.truth("hints")?,
            },
            "layers" => Workload::Layers {
                layers: options.number("layers", 8, 1..=1024, "a number from 1 to 1024")?,
                rows: options.number("rows", 2, 1..=16, "a number from 1 to 16")?,
                epochs: count("epochs", 3)?,
                hints: options.truth("hints")?,
            },
            "kvcache" => Workload::KvCache {
                sequences: maybe("sequences")?,
                width: options.power("width", 512, 64..=2048, "a power of two from 64 to 2048")?,
                check: count("check", 1)?,
                theta: options.theta(0.99)?,
                hints: options.truth("hints")?,
            },
            "pingpong" => Workload::PingPong {
                burst: options.number("burst", 1, 1..=MOST_BURST, "a number from 1 to 8192")?,
            },
            "hostile" => Workload::Hostile {
                rounds: count("rounds", 100)?,
                device: options.target()?,
            },
            "donor" => Workload::Donor {
                size: options.size("size")?,
            },
            "spin" => Workload::Spin,
            "wild" => Workload::Wild {
                at: options.address("at")?,
            },
            "triple" => Workload::Triple,
            "hlt0" => Workload::Hlt0 {
                pages: maybe("pages")?,
            },
            _ => Workload::None,
        };
        // A page that two write takes turns between them: where accelerators read, writes are rare.
        let writes = if workload.accelerated() { 1 } else { 30 };
        Ok(Self {
            name: known.0,
            workload,
            seed: options.number("seed", 1, 0..=u64::MAX, "a number")?,
            working_set: options.size("working_set")?,
            cpus: maybe("cpus")?,
            fill: options.fill()?,
            fault_threshold_us: options.number(
                "fault_threshold_us",
                5,
                0..=1_000_000,
                "microseconds, up to a second",
            )?,
            write_percent: percent("write", writes)?,
            ops: maybe("ops")?,
            seconds: maybe("seconds")?,
            warmup: options.optional("warmup", 0..=u64::MAX, "a number")?,
        })
    }

    /// How many pages of `available` the workload uses.
    ///
    /// # Errors
    ///
    /// If there are fewer than it asks for, or none.
    pub fn pages(&self, available: u64) -> Result<u64, PlanError<'static>> {
        let wanted = match (self.working_set, self.workload) {
            (Some(bytes), _) => bytes.div_ceil(crate::memory::PAGE_SIZE),
            (None, Workload::PingPong { .. }) => available.clamp(1, PINGPONG_PAGES),
            (None, _) => available.max(1),
        };
        if wanted > available {
            return Err(PlanError::TooLarge { wanted, available });
        }
        if let Workload::Hostile { .. } = self.workload
            && available < LEAST_PAGES
        {
            let wanted = LEAST_PAGES;
            return Err(PlanError::TooSmall { wanted, available });
        }
        Ok(match (self.workload, self.ops) {
            // A page costs a write and a read in each epoch.
            (Workload::Verify { epochs }, Some(ops)) => {
                wanted.min((ops / epochs.saturating_mul(2)).max(1))
            }
            _ => wanted,
        })
    }

    /// How many of `available` CPUs work.
    ///
    /// # Errors
    ///
    /// If there are fewer than it asks for.
    pub fn cpus(&self, available: usize) -> Result<usize, PlanError<'static>> {
        match self.cpus {
            None => Ok(available),
            Some(cpus) if cpus <= available as u64 => Ok(cpus as usize),
            Some(wanted) => Err(PlanError::TooManyCpus { wanted, available }),
        }
    }

    /// Bound of the warm-up on `pages` pages.
    pub fn warmup_bound(&self, pages: u64) -> Bound {
        Bound {
            ops: self.warmup.unwrap_or(pages),
            seconds: self.warmup.is_none().then_some(DEFAULT_WARMUP_SECONDS),
        }
    }

    /// Bound of the timed phase.
    pub fn timed_bound(&self) -> Bound {
        match (self.ops, self.seconds) {
            (None, None) => Bound {
                ops: DEFAULT_OPS,
                seconds: Some(DEFAULT_SECONDS),
            },
            (ops, seconds) => Bound {
                ops: ops.unwrap_or(u64::MAX),
                seconds,
            },
        }
    }
}

#[cfg(test)]
mod tests;
