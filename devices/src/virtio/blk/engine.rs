//! What does operations.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::blocking::Blocking;
use super::operation::Operation;
use super::uring::Uring;

/// Names an operation until it completes.
pub(super) type Slot = u16;

/// An operation that is over: bytes done, or why not.
pub(super) type Completion = (Slot, io::Result<u64>);

/// Does operations on one file.
pub(super) trait Engine: Send {
    /// Its name, for metrics.
    fn name(&self) -> &'static str;

    /// Readable when something has completed. None: everything completes in [`Engine::start`].
    fn source(&self) -> Option<RawFd>;

    /// Starts an operation. Some: it is already over.
    ///
    /// # Safety
    ///
    /// The memory that `operation` points to, and its vector, stay until it is over.
    unsafe fn start(&mut self, slot: Slot, operation: &Operation) -> Option<io::Result<u64>>;

    /// Hands what was started to the kernel.
    fn submit(&mut self);

    /// What is over since the last call.
    fn completed(&mut self) -> Vec<Completion>;

    /// Waits until something is over, if anything is under way.
    fn wait(&mut self);
}

/// The best engine that the host offers.
pub(super) fn best(file: &Arc<File>, depth: u16) -> Box<dyn Engine> {
    match Uring::new(Arc::clone(file), depth) {
        Ok(engine) => Box::new(engine),
        // Forbidden, too old, or out of locked memory: slower, and all the same to the guest.
        Err(_) => Box::new(Blocking::new(Arc::clone(file))),
    }
}
