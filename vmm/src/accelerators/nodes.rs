//! The address space as its guest sees it through virtio-gmem.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use gmem_core::accel::Advice;
use gmem_core::engine::{Destination, DeviceError, Engine, FreeError, MigrateError, TierSnapshot};
use gmem_core::hnode::Kind;
use gmem_core::page::PAGE_SIZE;
use gmem_devices::accel::{Card, Command, CommandError, Stream};
use gmem_devices::virtio::DeviceMemory;
use gmem_devices::virtio::gmem::{Node, NodeError, Nodes};
use gmem_wire::gmem::kind;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::Accelerators;

const PAGE: u64 = PAGE_SIZE as u64;

/// The guest's address space and the accelerators in it.
pub(crate) struct AddressSpace {
    accelerators: Accelerators,
    memory: Arc<dyn DeviceMemory>,
    /// Of each accelerator, the stream that copies, once there was something to copy.
    copiers: Vec<Mutex<Option<Stream>>>,
}

impl AddressSpace {
    pub(crate) fn new(accelerators: &Accelerators, memory: Arc<dyn DeviceMemory>) -> Self {
        Self {
            accelerators: accelerators.clone(),
            memory,
            copiers: accelerators
                .cards
                .iter()
                .map(|_| Mutex::default())
                .collect(),
        }
    }

    fn engine(&self) -> Result<&Arc<Engine>, NodeError> {
        let engine = self.accelerators.engine.get();
        engine.ok_or(NodeError::Unsupported)
    }

    /// Host first, then the tiers, then the accelerators.
    fn snapshot(&self) -> Vec<TierSnapshot> {
        match self.engine() {
            Ok(engine) => engine.tier_snapshots(),
            Err(_) => Vec::new(),
        }
    }

    /// The accelerator that is `node`, with its place among them.
    fn card(&self, node: u32) -> Option<(usize, &Arc<Card>)> {
        let mut cards = self.accelerators.cards.iter().enumerate();
        cards.find(|(_, card)| {
            card.attachment()
                .is_some_and(|attachment| u32::from(attachment.node()) == node)
        })
    }

    fn tier(&self, node: u32) -> Result<Destination, NodeError> {
        match (node, u8::try_from(node)) {
            (0, _) => Ok(Destination::Guest),
            (node, Ok(tier)) if node < self.count() => Ok(Destination::Tier(tier)),
            _ => Err(NodeError::Invalid),
        }
    }

    fn check(&self, address: u64, len: u64) -> Result<(), NodeError> {
        let all = self.memory.view().check_range(
            GuestAddress(address),
            len as usize,
            Permissions::ReadWrite,
        );
        match all || len == 0 {
            true => Ok(()),
            false => Err(NodeError::NotRam),
        }
    }

    /// Copies as a vCPU would.
    fn copy_by_host(&self, to: u64, from: u64, len: u64) -> Result<(), NodeError> {
        let view = self.memory.view();
        let mut bytes = [0; PAGE_SIZE];
        for done in (0..len).step_by(PAGE_SIZE) {
            let bytes = &mut bytes[..(len - done).min(PAGE) as usize];
            view.read_slice(bytes, GuestAddress(from + done))
                .and_then(|()| view.write_slice(bytes, GuestAddress(to + done)))
                .map_err(|error| NodeError::Failed(error.to_string()))?;
        }
        Ok(())
    }

    /// Copies on an accelerator's own unit.
    fn copy_by(
        &self,
        at: usize,
        card: &Card,
        to: u64,
        from: u64,
        len: u64,
    ) -> Result<(), NodeError> {
        let mut copier = self.copiers[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let stream = match &mut *copier {
            Some(stream) => stream,
            none => none.insert(
                card.stream()
                    .map_err(|error| NodeError::Failed(error.to_string()))?,
            ),
        };
        let (done, result) = mpsc::channel();
        let command = Command::Copy { from, to, len };
        let submitted = stream.submit(command, move |result| {
            // Who waits is there.
            let _ = done.send(result);
        });
        submitted.map_err(|full| NodeError::Failed(full.to_string()))?;
        match result.recv() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(CommandError::Fault(error))) => Err(of_device(&error)),
            Ok(Err(CommandError::Thrashing(_))) => Err(NodeError::NoMemory),
            Ok(Err(error)) => Err(NodeError::Failed(error.to_string())),
            Err(gone) => Err(NodeError::Failed(gone.to_string())),
        }
    }
}

impl Nodes for AddressSpace {
    fn count(&self) -> u32 {
        self.snapshot().len() as u32
    }

    fn node(&self, node: u32) -> Option<Node> {
        let nodes = self.snapshot();
        let found = nodes.get(node as usize)?;
        Some(Node {
            kind: match found.kind {
                Kind::Host => kind::RAM,
                Kind::Hbm => kind::HBM,
                Kind::Zip => kind::ZIP,
                Kind::File => kind::FILE,
                Kind::Remote => kind::REMOTE,
            },
            capacity: found.capacity_bytes,
            used: found.used_bytes,
            peak: found.peak_bytes,
        })
    }

    fn advise(&self, node: u32, address: u64, len: u64, advice: Advice) -> Result<(), NodeError> {
        let engine = self.engine()?;
        if let Some((_, card)) = self.card(node)
            && let Some(attachment) = card.attachment()
        {
            let advised = attachment.advise(address, len, advice);
            return advised.map(|_| ()).map_err(|error| of_device(&error));
        }
        let to = self.tier(node)?;
        let range = advice.pages(address, len);
        self.check(range.start.address(), range.pages * PAGE)?;
        match advice {
            Advice::Prefetch => engine.migrate(range, to).map(|_| ()).map_err(of_migration),
            Advice::DontNeed => match engine.free(range) {
                Ok(freed) if freed.pinned + freed.busy > 0 => Err(NodeError::Pinned),
                Ok(_) => Ok(()),
                Err(FreeError::NotRam { .. }) => Err(NodeError::NotRam),
                Err(error) => Err(NodeError::Failed(error.to_string())),
            },
            Advice::WillNeed => {
                engine.set_will_need(range);
                Ok(())
            }
            Advice::Pinned | Advice::Unpinned => engine
                .set_pinned(range, advice == Advice::Pinned)
                .map_err(of_migration),
        }
    }

    fn copy(&self, node: u32, to: u64, from: u64, len: u64) -> Result<(), NodeError> {
        self.check(from, len)?;
        self.check(to, len)?;
        if let Some((at, card)) = self.card(node) {
            return self.copy_by(at, card, to, from, len);
        }
        let place = self.tier(node)?;
        self.copy_by_host(to, from, len)?;
        match place {
            Destination::Tier(_) => {
                let range = Advice::Prefetch.pages(to, len);
                let moved = self.engine()?.migrate(range, place);
                moved.map(|_| ()).map_err(of_migration)
            }
            _ => Ok(()),
        }
    }

    fn bytes_in(&self, node: u32, address: u64, len: u64) -> Result<u64, NodeError> {
        let engine = self.engine()?;
        if node >= self.count() {
            return Err(NodeError::Invalid);
        }
        let range = Advice::Prefetch.pages(address, len);
        self.check(range.start.address(), range.pages * PAGE)?;
        // There are fewer than 16.
        Ok(engine.pages_in(node as u8, range) * PAGE)
    }

    fn set_cap(&self, node: u32, bytes: u64) -> Result<(), NodeError> {
        if node >= self.count() {
            return Err(NodeError::Invalid);
        }
        let attachment = self.card(node).and_then(|(_, card)| card.attachment());
        let attachment = attachment.ok_or(NodeError::Unsupported)?;
        attachment.set_cap(bytes).map_err(|_| NodeError::NoMemory)
    }
}

fn of_migration(error: MigrateError) -> NodeError {
    match error {
        MigrateError::Full(_) => NodeError::NoMemory,
        MigrateError::NoTier { .. } => NodeError::Invalid,
        MigrateError::Failed(error) => NodeError::Failed(error.to_string()),
    }
}

fn of_device(error: &DeviceError) -> NodeError {
    match error {
        DeviceError::NotRam { .. } | DeviceError::Free(FreeError::NotRam { .. }) => {
            NodeError::NotRam
        }
        DeviceError::Pinned { .. } | DeviceError::Busy { .. } => NodeError::Pinned,
        DeviceError::Full { .. } => NodeError::NoMemory,
        error => NodeError::Failed(error.to_string()),
    }
}
