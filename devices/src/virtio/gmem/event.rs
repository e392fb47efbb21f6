//! When a node is nearly full, and when it no longer is.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use gmem_wire::gmem::{EVENT_SIZE, event};
use vmm_sys_util::timerfd::TimerFd;

use super::nodes::Node;

/// How often nodes are looked at, if the driver wants to hear of them.
const EVERY: Duration = Duration::from_millis(100);
/// A node of which less than one in so many bytes is free is nearly full; no longer, when one in half as many is.
const NEARLY: u64 = 16;

/// What has been told of the nodes.
pub(super) struct Watch {
    timer: TimerFd,
    pressed: Vec<bool>,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            timer: TimerFd::new()?,
            pressed: Vec::new(),
        })
    }

    /// The descriptor that is readable when it is time to look.
    pub(super) fn source(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Looks from now on.
    pub(super) fn start(&mut self) -> io::Result<()> {
        Ok(self.timer.reset(EVERY, Some(EVERY))?)
    }

    /// Looks no more, and forgets what was told.
    pub(super) fn stop(&mut self) {
        // It was armed, so it can be disarmed.
        let _ = self.timer.clear();
        self.pressed.clear();
    }

    /// The timer has been heard.
    pub(super) fn woken(&mut self) {
        // Setting a timer takes back what it has signalled. Reading it could block.
        let _ = self.start();
    }

    /// The next thing to tell of `node`, which has number `number`, if there is one; it then counts as told.
    pub(super) fn look(&mut self, number: u32, node: Node) -> Option<[u8; EVENT_SIZE]> {
        let at = number as usize;
        if self.pressed.len() <= at {
            self.pressed.resize(at + 1, false);
        }
        let free = node.capacity.saturating_sub(node.used);
        let pressed = match self.pressed[at] {
            false => free < node.capacity / NEARLY,
            true => free < node.capacity / NEARLY * 2,
        };
        if pressed == self.pressed[at] {
            return None;
        }
        self.pressed[at] = pressed;
        let kind = match pressed {
            true => event::PRESSURE,
            false => event::RELIEF,
        };
        let mut bytes = [0; EVENT_SIZE];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(&free.to_le_bytes());
        Some(bytes)
    }

    /// What was to be told could not be: it is still to be told.
    pub(super) fn take_back(&mut self, number: u32) {
        if let Some(pressed) = self.pressed.get_mut(number as usize) {
            *pressed = !*pressed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_and_relief_are_told_once_each_and_not_at_every_page() {
        let mut watch = Watch::new().unwrap();
        let node = |used| Node {
            capacity: 1600,
            used,
            ..Node::default()
        };
        let kind = |bytes: Option<[u8; EVENT_SIZE]>| bytes.map(|bytes| bytes[0]);
        assert_eq!(watch.look(3, node(1500)), None);
        assert_eq!(kind(watch.look(3, node(1501))), Some(event::PRESSURE as u8));
        assert_eq!(watch.look(3, node(1600)), None);
        assert_eq!(watch.look(3, node(1499)), None);
        assert_eq!(kind(watch.look(3, node(1400))), Some(event::RELIEF as u8));
        assert_eq!(watch.look(3, node(1499)), None);
        let told = watch.look(3, node(1550)).unwrap();
        assert_eq!(told[4..8], 3u32.to_le_bytes());
        assert_eq!(told[8..], 50u64.to_le_bytes());
        watch.take_back(3);
        assert!(watch.look(3, node(1550)).is_some());
    }
}
