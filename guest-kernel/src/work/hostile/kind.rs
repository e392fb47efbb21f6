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
    Xpu,
    Gmem,
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
            gmem_wire::xpu::ID => Self::Xpu,
            gmem_wire::gmem::ID => Self::Gmem,
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
            Self::Xpu => "xpu",
            Self::Gmem => "gmem",
        }
    }

    /// How many queues it has, at most.
    pub(super) fn queues(self) -> usize {
        match self {
            Self::Blk | Self::Rng | Self::Mem => 1,
            Self::Net | Self::Console | Self::Gmem => 2,
            Self::Vsock => 3,
            Self::Xpu => 4,
            Self::Balloon => 5,
        }
    }

    /// How many of them a driver by the rules uses, which the device has for certain.
    pub(super) fn queues_in_use(self) -> usize {
        match self {
            Self::Xpu | Self::Gmem => 1,
            _ => self.queues(),
        }
    }

    /// Whether devices obey addresses that they read, and how long the pieces are that they read them in: whatever is done to
    /// descriptors, they find whole ones.
    pub(super) fn unit(self) -> Option<u32> {
        match self {
            Self::Balloon => Some(4),
            Self::Xpu => Some(gmem_wire::xpu::REQUEST_SIZE as u32),
            Self::Gmem => Some(gmem_wire::gmem::REQUEST_SIZE as u32),
            _ => None,
        }
    }

    /// Whether `target` asks for devices of this kind.
    pub(super) fn is(self, target: Target) -> bool {
        target == Target::All || target.name() == self.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_that_are_obeyed_have_lengths_that_masks_can_cut() {
        for kind in [Kind::Balloon, Kind::Xpu, Kind::Gmem] {
            assert!(kind.unit().is_some_and(u32::is_power_of_two));
        }
    }
}
