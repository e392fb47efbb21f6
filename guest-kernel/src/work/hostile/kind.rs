//! The kinds of devices.

use crate::plan::Target;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Net,
    Blk,
    Console,
    Rng,
    Balloon,
    Vsock,
    Mem,
}

impl Kind {
    /// The kind with this number (virtio 1.2, chapter 5).
    pub(super) fn of(id: u32) -> Option<Self> {
        Some(match id {
            1 => Self::Net,
            2 => Self::Blk,
            3 => Self::Console,
            4 => Self::Rng,
            5 => Self::Balloon,
            19 => Self::Vsock,
            24 => Self::Mem,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Blk => "blk",
            Self::Console => "console",
            Self::Rng => "rng",
            Self::Balloon => "balloon",
            Self::Vsock => "vsock",
            Self::Mem => "mem",
        }
    }

    /// How many queues it has.
    pub(super) fn queues(self) -> usize {
        match self {
            Self::Blk | Self::Rng | Self::Mem => 1,
            Self::Net | Self::Console => 2,
            Self::Vsock => 3,
            Self::Balloon => 5,
        }
    }

    /// Whether `target` asks for devices of this kind.
    pub(super) fn is(self, target: Target) -> bool {
        target == Target::All || target.name() == self.name()
    }
}
