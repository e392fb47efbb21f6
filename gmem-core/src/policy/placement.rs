//! Where a granule goes that an accelerator touches: a decision by numbers, without knowledge of the engine.
//!
//! A granule in the accelerator's own memory is reached at full speed, but has to cross the link to come there, and
//! takes room from another. One that is reached beneath the guest crosses the link with each access. Which is less is not
//! known in advance, so where room is short a granule is rented until what was paid would have bought it: remotely
//! accessed bytes are counted, and when they are more than the granule has, it comes. That costs about twice what the
//! best choice would have, whatever the program does next (the ski rental problem); and a program that passes once pays
//! once.
//!
//! A granule that came again and again, because vCPUs and accelerators take turns, is rented too, whatever room there is,
//! and each time it came in vain makes it dearer.

use crate::hnode::device::Access;
use crate::page::PAGE_SIZE;

/// Which rule an accelerator's faults follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// By access, room, and use.
    #[default]
    Adaptive,
    /// Whatever is touched comes into the accelerator's memory, and is nobody else's.
    FirstTouch,
    /// Whatever is touched stays beneath the guest, if the accelerator can reach it there.
    Remote,
}

/// Where most of a granule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere: it reads as zeros.
    Untouched,
    /// Some of it is beneath the guest.
    Guest,
    /// Staged, or in a tier.
    Tier,
    /// Some of it is in an accelerator's memory, and none beneath the guest.
    Accelerator,
}

/// A granule that an accelerator wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// For what.
    pub access: Access,
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// Some of it is pinned where it is.
    pub pinned: bool,
    /// The accelerator's memory has room for it.
    pub room: bool,
    /// The accelerator has a copy of all of it.
    pub copied: bool,
    /// How often it came there lately.
    pub came: u64,
    /// The accelerator can reach it beneath the guest.
    pub reaches_host: bool,
    /// It is known to be worth its way: advised, or used enough.
    pub near: bool,
}

/// Where it shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Into the accelerator's memory, and nowhere else.
    Migrate,
    /// Into the accelerator's memory for reading; its owner keeps it.
    Copy,
    /// Beneath the guest, where the accelerator reaches it.
    Remote,
}

/// A granule that came as often lately does not stay.
const RESTLESS: u64 = 2;

impl Placement {
    /// Where a granule shall go. A choice that cannot be had (who copies a page that cannot be protected?) is one for
    /// [`Choice::Migrate`].
    pub fn choose(self, wanted: Wanted) -> Choice {
        let reads = wanted.access == Access::Read;
        let rent = !wanted.room || wanted.came >= RESTLESS;
        match self {
            Self::FirstTouch => Choice::Migrate,
            Self::Remote if wanted.reaches_host && !wanted.near => Choice::Remote,
            // What is pinned may be copied, because it stays; written it can only be where it is.
            _ if wanted.pinned && !reads && wanted.reaches_host => Choice::Remote,
            // Neither what is there already nor zeros cross the link.
            _ if wanted.copied && !reads => Choice::Migrate,
            _ if wanted.whereabouts == Whereabouts::Untouched && !wanted.pinned => Choice::Migrate,
            _ if rent && !wanted.near && wanted.reaches_host => Choice::Remote,
            _ if reads => Choice::Copy,
            _ => Choice::Migrate,
        }
    }
}

/// Whether a granule of `pages` of which `bytes` were accessed over the link lately is worth bringing, after it came
/// `came` times lately.
pub fn is_hot(bytes: u64, pages: u64, came: u64) -> bool {
    bytes > pages * PAGE_SIZE as u64 * (1 + came)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        access: Access::Read,
        whereabouts: Whereabouts::Guest,
        pinned: false,
        room: true,
        copied: false,
        came: 0,
        reaches_host: true,
        near: false,
    };

    fn adaptive(wanted: Wanted) -> Choice {
        Placement::Adaptive.choose(wanted)
    }

    #[test]
    fn with_room_what_is_read_is_copied_and_what_is_written_migrates() {
        let write = Access::Write;
        assert_eq!(adaptive(WANTED), Choice::Copy);
        let written = Wanted {
            access: write,
            ..WANTED
        };
        assert_eq!(adaptive(written), Choice::Migrate);
    }

    #[test]
    fn without_room_a_granule_stays_until_it_is_hot() {
        let crowded = Wanted {
            room: false,
            ..WANTED
        };
        assert_eq!(adaptive(crowded), Choice::Remote);
        let hot = Wanted {
            near: true,
            ..crowded
        };
        assert_eq!(adaptive(hot), Choice::Copy);
        let access = Access::Write;
        assert_eq!(adaptive(Wanted { access, ..hot }), Choice::Migrate);
        let blind = Wanted {
            reaches_host: false,
            ..crowded
        };
        assert_eq!(adaptive(blind), Choice::Copy);
    }

    #[test]
    fn what_nobody_has_written_becomes_zeros_in_the_accelerators_memory() {
        let untouched = Wanted {
            whereabouts: Whereabouts::Untouched,
            room: false,
            ..WANTED
        };
        assert_eq!(adaptive(untouched), Choice::Migrate);
    }

    #[test]
    fn a_copy_becomes_the_accelerators_own_when_it_is_written_whatever_room_there_is() {
        let copied = Wanted {
            access: Access::Write,
            copied: true,
            room: false,
            came: 9,
            ..WANTED
        };
        assert_eq!(adaptive(copied), Choice::Migrate);
        let pinned = true;
        assert_eq!(adaptive(Wanted { pinned, ..copied }), Choice::Remote);
    }

    #[test]
    fn what_is_pinned_is_written_where_it_is() {
        let pinned = Wanted {
            access: Access::Write,
            pinned: true,
            near: true,
            ..WANTED
        };
        assert_eq!(adaptive(pinned), Choice::Remote);
        // There is no way, as whoever does it will find out.
        let blind = Wanted {
            reaches_host: false,
            ..pinned
        };
        assert_eq!(adaptive(blind), Choice::Migrate);
    }

    #[test]
    fn a_forced_placement_has_its_way() {
        for whereabouts in [Whereabouts::Untouched, Whereabouts::Accelerator] {
            let wanted = Wanted {
                whereabouts,
                ..WANTED
            };
            assert_eq!(Placement::FirstTouch.choose(wanted), Choice::Migrate);
            assert_eq!(Placement::Remote.choose(wanted), Choice::Remote);
        }
        let advised = Wanted {
            near: true,
            ..WANTED
        };
        assert_eq!(Placement::Remote.choose(advised), Choice::Copy);
    }

    #[test]
    fn a_granule_that_does_not_stay_is_used_where_it_is() {
        let wanted = |came| adaptive(Wanted { came, ..WANTED });
        assert_eq!((wanted(1), wanted(2)), (Choice::Copy, Choice::Remote));
    }

    #[test]
    fn a_granule_is_hot_when_more_bytes_crossed_the_link_than_it_has() {
        assert!(!is_hot(4096, 1, 0) && is_hot(4097, 1, 0));
        assert!(!is_hot(65536, 16, 0) && is_hot(65537, 16, 0));
        assert!(!is_hot(3 * 4096, 1, 2) && is_hot(3 * 4096 + 1, 1, 2));
    }
}
