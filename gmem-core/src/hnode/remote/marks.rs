//! For each frame of the tier: the version of what is in it, and who has it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The most holders of a tier.
pub const HOLDERS: usize = 8;

/// A frame's version, and a bit for each holder that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// 0: nothing is in the frame.
    pub(super) version: u64,
    pub(super) holders: u8,
}

impl Mark {
    fn of(word: u64) -> Self {
        Self {
            version: word >> HOLDERS,
            holders: word as u8,
        }
    }

    fn word(self) -> u64 {
        self.version << HOLDERS | u64::from(self.holders)
    }
}

pub(super) struct Marks {
    marks: Box<[AtomicU64]>,
    /// The next version; each is given once, to one frame.
    next: AtomicU64,
    /// What is known of what holders lack, of the bits below.
    known: AtomicU8,
}

/// Some holder may lack something.
const LACKING: u8 = 1;
/// Somebody is looking whether one does.
const LOOKING: u8 = 2;

impl Marks {
    pub(super) fn new(frames: u64) -> Self {
        Self {
            marks: (0..frames).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU64::new(1),
            known: AtomicU8::new(0),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.marks.len() as u64
    }

    pub(super) fn get(&self, frame: u64) -> Mark {
        Mark::of(self.marks[frame as usize].load(Ordering::Acquire))
    }

    /// A new version for what is about to be in a frame, which nobody has yet.
    pub(super) fn renew(&self, frame: u64) -> u64 {
        let version = self.next.fetch_add(1, Ordering::Relaxed);
        let mark = Mark {
            version,
            holders: 0,
        };
        self.marks[frame as usize].store(mark.word(), Ordering::Release);
        version
    }

    /// Nothing is in a frame any more; returns the version that was.
    pub(super) fn clear(&self, frame: u64) -> u64 {
        Mark::of(self.marks[frame as usize].swap(0, Ordering::AcqRel)).version
    }

    /// A holder has this version, if it is still the one.
    pub(super) fn held(&self, frame: u64, version: u64, holder: usize) {
        self.change(frame, |mark| {
            (mark.version == version).then(|| mark.holders | 1 << holder)
        });
    }

    /// Some holder lacks something.
    pub(super) fn lacks(&self) {
        self.known.fetch_or(LACKING, Ordering::AcqRel);
    }

    /// Whether one may.
    pub(super) fn is_lacking(&self) -> bool {
        self.known.load(Ordering::Acquire) & LACKING != 0
    }

    /// Somebody begins to look through all frames. What others find out meanwhile counts.
    pub(super) fn look(&self) {
        self.known.store(LOOKING, Ordering::Release);
    }

    /// That is over: something is lacking, or nothing was found.
    pub(super) fn looked(&self, lacking: bool) {
        if lacking {
            self.lacks();
        }
        self.known.fetch_and(!LOOKING, Ordering::AcqRel);
    }

    /// Whether no holder lacks anything that is on its way to none.
    pub(super) fn is_whole(&self) -> bool {
        self.known.load(Ordering::Acquire) == 0
    }

    /// A holder has nothing of what it had.
    pub(super) fn lost(&self, holder: usize) {
        self.lacks();
        for frame in 0..self.len() {
            self.not_held(frame, holder);
        }
    }

    /// A holder has not what is in a frame.
    pub(super) fn not_held(&self, frame: u64, holder: usize) {
        self.change(frame, |mark| Some(mark.holders & !(1 << holder)));
    }

    fn change(&self, frame: u64, holders: impl Fn(Mark) -> Option<u8>) {
        let change = |word| {
            let mark = Mark::of(word);
            let holders = holders(mark)?;
            (holders != mark.holders).then(|| Mark { holders, ..mark }.word())
        };
        let order = (Ordering::AcqRel, Ordering::Acquire);
        // Where it does not change nothing is to be done.
        let _ = self.marks[frame as usize].fetch_update(order.0, order.1, change);
    }

    /// Memory that it takes, bytes.
    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.marks) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_an_old_version_does_not_hold_the_new_one() {
        let marks = Marks::new(2);
        let old = marks.renew(1);
        marks.held(1, old, 3);
        assert_eq!(
            marks.get(1),
            Mark {
                version: old,
                holders: 8
            }
        );
        let new = marks.renew(1);
        marks.held(1, old, 3);
        assert_eq!(
            marks.get(1),
            Mark {
                version: new,
                holders: 0
            }
        );
        marks.held(1, new, 0);
        marks.held(1, new, 3);
        marks.lost(3);
        assert_eq!(
            marks.get(1),
            Mark {
                version: new,
                holders: 1
            }
        );
        assert_eq!(marks.clear(1), new);
        marks.held(1, new, 0);
        assert_eq!(marks.get(1).holders, 0);
    }

    #[test]
    fn while_somebody_looks_nothing_is_known_to_be_whole_and_what_is_found_meanwhile_counts() {
        let marks = Marks::new(1);
        assert!(marks.is_whole());
        marks.lacks();
        assert!(marks.is_lacking() && !marks.is_whole());
        marks.look();
        assert!(!marks.is_lacking() && !marks.is_whole());
        marks.looked(false);
        assert!(marks.is_whole());
        marks.look();
        marks.lacks();
        marks.looked(false);
        assert!(marks.is_lacking() && !marks.is_whole());
    }
}
