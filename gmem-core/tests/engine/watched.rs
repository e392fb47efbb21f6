//! Tiers that a test sees into, or that fail on demand, and bytes for them.

use crate::simulated::Fuse;
use gmem_core::hnode::{Capabilities, Frame, Hnode, Kind, LoadError, StoreError, Usage};
use gmem_core::page::{PAGE_SIZE, Unit};
use std::sync::Arc;

/// Bytes that no compressor makes smaller.
pub fn noise(seed: u64) -> [u8; PAGE_SIZE] {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
}

/// A tier through which a test sees or delays what the engine does.
pub struct Watched {
    pub inner: Box<dyn Hnode>,
    pub free: Box<dyn Fn(u64) -> u64 + Send + Sync>,
    pub before_load: Box<dyn Fn() + Send + Sync>,
}

impl Hnode for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn kind(&self) -> Kind {
        self.inner.kind()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn usage(&self) -> Usage {
        self.inner.usage()
    }
    fn guaranteed_pages(&self) -> u64 {
        self.inner.guaranteed_pages()
    }
    fn free_pages(&self) -> u64 {
        (self.free)(self.inner.free_pages())
    }
    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        self.inner.store(bytes)
    }
    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        (self.before_load)();
        self.inner.load(frame, into)
    }
    fn free(&self, frame: Frame, unit: Unit) {
        self.inner.free(frame, unit)
    }
}

/// A tier that fails when its fuses blow.
pub struct Flaky {
    pub inner: Box<dyn Hnode>,
    pub store_fuse: Arc<Fuse>,
    pub load_fuse: Arc<Fuse>,
}

fn failure() -> std::io::Error {
    std::io::Error::other("injected")
}

impl Hnode for Flaky {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn kind(&self) -> Kind {
        self.inner.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn guaranteed_pages(&self) -> u64 {
        self.inner.guaranteed_pages()
    }

    fn free_pages(&self) -> u64 {
        self.inner.free_pages()
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        if self.store_fuse.blows() {
            return Err(failure().into());
        }
        self.inner.store(bytes)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        if self.load_fuse.blows() {
            // What was there is overwritten in part before the device fails.
            let half = into.len() / 2;
            into[..half].fill(0xee);
            return Err(failure().into());
        }
        self.inner.load(frame, into)
    }

    fn free(&self, frame: Frame, unit: Unit) {
        self.inner.free(frame, unit);
    }
}
