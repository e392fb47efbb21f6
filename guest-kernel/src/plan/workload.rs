//! Which workloads there are, and what they are told.

/// A workload with its own options.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(
    missing_docs,
    reason = "the fields are the options of the module's table"
)]
pub enum Workload {
    /// `verify`
    Verify { epochs: u64 },
    /// `scan`
    Scan,
    /// `stride`, pages
    Stride { stride: u64 },
    /// `uniform`
    Uniform,
    /// `zipf`
    Zipf { theta: f64 },
    /// `hotscan`: percents, and whether the hot pages lie together
    HotScan {
        hot: u64,
        hot_ops: u64,
        together: bool,
    },
    /// `phase`: as `hotscan`, and operations
    Phase {
        hot: u64,
        hot_ops: u64,
        phase_ops: Option<u64>,
        together: bool,
    },
    /// `faults`
    Faults { passes: u64 },
    /// `hostile`
    Hostile { rounds: u64, device: Target },
    /// `gather`: bytes of a row, rows of a batch
    Gather {
        theta: f64,
        row: u64,
        batch: u64,
        hints: bool,
    },
    /// `layers`
    Layers {
        layers: u64,
        rows: u64,
        epochs: u64,
        hints: bool,
    },
    /// `kvcache`: bytes of a key, and which answers are checked
    KvCache {
        sequences: Option<u64>,
        width: u64,
        check: u64,
        theta: f64,
        hints: bool,
    },
    /// `pingpong`: additions of a command
    PingPong { burst: u64 },
    /// `donor`: bytes that are lent, or as many as there are
    Donor { size: Option<u64> },
    /// `none`
    None,
    /// `spin`
    Spin,
    /// `wild`, an address
    Wild { at: Option<u64> },
    /// `triple`
    Triple,
    /// `hlt0`
    Hlt0 { pages: Option<u64> },
}

/// Which devices `hostile` attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of virtio's devices")]
pub enum Target {
    /// All that there are.
    All,
    Rng,
    Blk,
    Net,
    Vsock,
    Console,
    Balloon,
    Mem,
    Xpu,
    Gmem,
}

impl Target {
    pub(super) const EVERY: [Self; 10] = [
        Self::All,
        Self::Rng,
        Self::Blk,
        Self::Net,
        Self::Vsock,
        Self::Console,
        Self::Balloon,
        Self::Mem,
        Self::Xpu,
        Self::Gmem,
    ];

    /// As the option names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Rng => "rng",
            Self::Blk => "blk",
            Self::Net => "net",
            Self::Vsock => "vsock",
            Self::Console => "console",
            Self::Balloon => "balloon",
            Self::Mem => "mem",
            Self::Xpu => "xpu",
            Self::Gmem => "gmem",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|target| target.name() == name)
    }
}

impl Workload {
    /// Whether it works on accelerators.
    pub fn accelerated(&self) -> bool {
        use Workload::*;
        matches!(
            self,
            Gather { .. } | Layers { .. } | KvCache { .. } | PingPong { .. }
        )
    }

    /// Whether it needs memory in one piece: what is an operand to an accelerator has no holes.
    pub fn in_one_piece(&self) -> bool {
        self.accelerated() || matches!(self, Self::Donor { .. })
    }

    /// Whether accelerators are told what comes.
    pub fn hints(&self) -> bool {
        use Workload::*;
        match *self {
            Gather { hints, .. } | Layers { hints, .. } | KvCache { hints, .. } => hints,
            _ => false,
        }
    }

    /// Whether it increments counters in the pages.
    pub fn counts_writes(&self) -> bool {
        use Workload::*;
        matches!(
            self,
            Scan | Stride { .. }
                | Uniform
                | Zipf { .. }
                | HotScan { .. }
                | Phase { .. }
                | Faults { .. }
                | Gather { .. }
                | PingPong { .. }
        )
    }
}
