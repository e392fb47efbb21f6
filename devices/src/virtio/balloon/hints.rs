//! Free page hinting: which pages the guest called free.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Reserved: the driver stops, and keeps the pages that it has hinted.
pub(super) const STOP: u32 = 0;
/// Reserved: the driver stops, and takes back what it has hinted.
pub(super) const DONE: u32 = 1;
/// As many ranges are kept; drivers hint their largest blocks, so that this is hundreds of gigabytes.
const KEPT: usize = 1 << 16;

/// How far free page hinting is.
///
/// A hint says that a page's bytes of *when hinting began* are not needed, unless the guest writes to the page, and
/// that it may do at any moment after the hint (Linux does under memory pressure), also before this device has
/// seen it. Whoever frees the page on seeing the hint may therefore lose what has been written. So the device
/// only notes hints. Who tracks writes from before [`begin_hinting`](super::BalloonControl::begin_hinting) on, as a
/// snapshot with a dirty log does, may skip a hinted page that is not dirty. To free pages, use page reporting, where
/// the driver holds a page back until it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hinting {
    /// The command that the driver is to answer; 0 none, 1 done.
    pub command: u32,
    /// The driver is at it.
    pub running: bool,
    /// The driver has named all that it has.
    pub complete: bool,
    /// What it has named, bytes.
    pub bytes: u64,
}

/// The commands and the hints of the present one.
#[derive(Debug)]
pub(super) struct Hints {
    last: u32,
    now: Hinting,
    ranges: Vec<Range<u64>>,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self {
            last: DONE,
            now: Hinting {
                command: STOP,
                running: false,
                complete: false,
                bytes: 0,
            },
            ranges: Vec::new(),
        }
    }

    /// What a snapshot has to know.
    pub(super) fn state(&self) -> HintState {
        HintState {
            last: self.last,
            command: self.now.command,
        }
    }

    /// As saved. Hints belong to the writes of then and are not kept.
    pub(super) fn restore(state: &HintState) -> Self {
        let mut hints = Self::new();
        hints.last = state.last.max(DONE);
        hints.now.command = state.command;
        hints
    }

    /// A new driver knows of no command. Numbers are not used again.
    pub(super) fn reset(&mut self) {
        self.set_command(STOP);
    }

    /// Asks for hints: the command's number.
    pub(super) fn begin(&mut self) -> u32 {
        self.last = self.last.checked_add(1).unwrap_or(DONE + 1);
        self.set_command(self.last);
        self.last
    }

    /// The driver may have its pages back.
    pub(super) fn end(&mut self) {
        self.set_command(DONE);
    }

    /// The driver says which command it answers from now on.
    pub(super) fn answers(&mut self, command: u32) {
        if command == STOP {
            self.now.complete |= self.now.running;
        }
        self.now.running = command == self.now.command && command > DONE;
    }

    /// The driver hints at `range`. False: not for the present command, or too many to keep.
    pub(super) fn add(&mut self, range: Range<u64>) -> bool {
        if !self.now.running {
            return false;
        }
        let bytes = range.end - range.start;
        let full = self.ranges.len() == KEPT;
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if last.start == range.end => last.start = range.start,
            _ if full => return false,
            _ => self.ranges.push(range),
        }
        self.now.bytes += bytes;
        true
    }

    pub(super) fn now(&self) -> Hinting {
        self.now
    }

    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    fn set_command(&mut self, command: u32) {
        self.now = Hinting {
            command,
            running: false,
            complete: false,
            bytes: 0,
        };
        self.ranges = Vec::new();
    }
}

/// The command and the last number given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HintState {
    last: u32,
    command: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_count_only_between_the_answer_and_the_stop() {
        let mut hints = Hints::new();
        assert!(!hints.add(0..4096));
        let command = hints.begin();
        assert!(!hints.add(0..4096));
        hints.answers(command - 1);
        assert!(!hints.add(0..4096));
        hints.answers(command);
        assert!(hints.add(0..4096));
        assert!(hints.add(4096..8192));
        assert!(hints.add(65536..69632));
        hints.answers(STOP);
        assert!(!hints.add(8192..12288));
        assert!(hints.now().complete);
        assert_eq!(hints.ranges(), [0..8192, 65536..69632]);
        assert_eq!(hints.now().bytes, 12288);
    }

    #[test]
    fn what_a_driver_can_make_the_device_keep_has_an_end() {
        let mut hints = Hints::new();
        let command = hints.begin();
        hints.answers(command);
        let kept = (0..2 * KEPT as u64)
            .filter(|index| hints.add(index * 8192..index * 8192 + 4096))
            .count();
        assert_eq!(kept, KEPT);
    }

    #[test]
    fn a_reserved_number_is_never_a_command() {
        let mut hints = Hints::restore(&HintState {
            last: u32::MAX,
            command: STOP,
        });
        assert_eq!(hints.begin(), 2);
        // A driver that answers what nobody asked.
        hints.end();
        hints.answers(DONE);
        assert!(!hints.now().running);
    }
}
