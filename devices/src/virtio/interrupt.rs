//! A device's interrupt: a line, and a register that says why.

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// A queue has used buffers.
const USED_BUFFERS: u32 = 1;
/// The configuration, or the device's status, has changed.
const CONFIGURATION: u32 = 2;

/// An interrupt line with the causes that have not been acknowledged.
#[derive(Debug)]
pub struct Interrupt {
    line: EventFd,
    causes: AtomicU32,
}

impl Interrupt {
    /// An interrupt that is raised by writing to `line`.
    pub fn new(line: EventFd) -> Self {
        Self {
            line,
            causes: AtomicU32::new(0),
        }
    }

    /// A queue has used buffers that the driver wants to hear of.
    pub fn used(&self) {
        self.raise(USED_BUFFERS);
    }

    /// The configuration or the status has changed.
    pub fn changed(&self) {
        self.raise(CONFIGURATION);
    }

    /// The causes, as the register InterruptStatus shows them.
    pub(super) fn causes(&self) -> u32 {
        self.causes.load(Ordering::Acquire)
    }

    /// The driver has seen these.
    pub(super) fn acknowledge(&self, causes: u32) {
        self.causes.fetch_and(!causes, Ordering::AcqRel);
    }

    /// Forgets all causes.
    pub(super) fn reset(&self) {
        self.causes.store(0, Ordering::Release);
    }

    fn raise(&self, cause: u32) {
        self.causes.fetch_or(cause, Ordering::AcqRel);
        // An eventfd that is full has been raised: nothing is lost.
        let _ = self.line.write(1);
    }
}
