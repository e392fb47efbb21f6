//! What is measured of oversubscribed memory.

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Pages in ascending order.
    Scan,
    /// Every 17th page.
    Stride,
    /// Pages at random.
    Uniform,
    /// Pages by Zipf's law.
    Zipf,
    /// A hot set, and a scan of the rest.
    Hotscan,
    /// A hot set that changes, and pages at random.
    Phase,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Scan,
        Self::Stride,
        Self::Uniform,
        Self::Zipf,
        Self::Hotscan,
        Self::Phase,
    ];

    /// The bundled guest's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Stride => "stride",
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Hotscan => "hotscan",
            Self::Phase => "phase",
        }
    }

    /// The local shares that are measured unless others are asked for, percent.
    pub fn shares(self) -> &'static [u8] {
        match self {
            Self::Scan | Self::Stride => &[25],
            Self::Uniform | Self::Zipf => &[50],
            Self::Hotscan | Self::Phase => &[50, 25],
        }
    }

    /// What comes next can be known, so that few accesses should need a fault.
    pub(super) fn is_foreseeable(self) -> bool {
        matches!(self, Self::Scan | Self::Stride)
    }
}

/// What holds pages that are not local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Tier {
    /// Compressed memory, against zram.
    Zip,
    /// Other memory, against swap on an uncompressed device in memory.
    Hbm,
}

impl Tier {
    /// As in `--tier`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zip => "zip",
            Self::Hbm => "hbm",
        }
    }
}
