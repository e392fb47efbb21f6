//! Requests by which the kernel may write to guest memory on its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts them. While there are some, a frame beneath the guest may be pinned for a device of the host, which write protection does
/// not stop: who lets a page go after having copied it asks first, when the page is protected already. A request
/// that begins later waits for the page.
#[derive(Clone, Debug, Default)]
pub struct Incoming(Arc<AtomicUsize>);

/// A request under way, until it is dropped.
#[derive(Debug)]
pub struct Input(Arc<AtomicUsize>);

impl Incoming {
    /// A request begins. To be called before the kernel learns of it.
    pub fn begin(&self) -> Input {
        self.0.fetch_add(1, Ordering::SeqCst);
        Input(Arc::clone(&self.0))
    }

    /// Whether any is under way.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
