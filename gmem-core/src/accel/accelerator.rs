//! An accelerator: its memory and its page tables.

use super::{Attachment, Pmap};
use crate::engine::{AttachError, Engine};
use crate::hnode::local::LocalMemory;
use std::fmt;
use std::sync::Arc;

/// An accelerator that can be attached to address spaces.
pub struct Accelerator {
    name: String,
    memory: Arc<LocalMemory>,
    pmap: Arc<dyn Pmap>,
}

impl Accelerator {
    /// An accelerator called `name` in reports, with its memory and the MMU functions of its driver.
    pub fn new(
        name: impl Into<String>,
        memory: Arc<LocalMemory>,
        pmap: Arc<dyn Pmap>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            memory,
            pmap,
        })
    }

    /// Lets it have pages of an address space. Any number of accelerators may be attached to one address space (15 with
    /// the tiers), and an accelerator to any number of them.
    pub fn attach(self: &Arc<Self>, engine: &Arc<Engine>) -> Result<Attachment, AttachError> {
        Attachment::new(self, engine)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<LocalMemory> {
        &self.memory
    }

    pub(super) fn pmap(&self) -> &dyn Pmap {
        &*self.pmap
    }
}

impl fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accelerator")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
