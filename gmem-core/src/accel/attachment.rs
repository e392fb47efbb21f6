//! An accelerator in an address space.

use super::{Accelerator, ContextId};
use crate::bytes::Bytes;
use crate::engine::{AttachError, Cause, DeviceError, Engine, Traffic};
use crate::hnode::device::{Access, Device, MapError, Reach};
use crate::hnode::{
    Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, StoreError, Usage,
};
use crate::page::{PAGE_SIZE, PageNo, Unit};
use crate::policy::Placement;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An accelerator that is attached to an address space. Dropped, it is detached if there is room for its pages.
pub struct Attachment {
    pub(super) engine: Arc<Engine>,
    pub(super) hnode: u8,
    share: Arc<Share>,
    attached: bool,
}

/// Why a cap is refused: as in GMEM, a cap below what is used is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} has {used} of this address space's memory: a cap of {asked} is below that; free some first"
)]
pub struct CapError {
    /// The accelerator's name.
    pub name: String,
    /// What it has.
    pub used: Bytes,
    /// What was asked for.
    pub asked: Bytes,
}

/// The part of an accelerator's memory that one address space uses.
#[derive(Debug)]
struct Share {
    accelerator: Arc<Accelerator>,
    context: ContextId,
    /// Pages that it has, or is about to have: a request that finds no frames counts for a moment.
    used: AtomicU64,
    /// Pages that it has.
    held: AtomicU64,
    peak: AtomicU64,
    cap: AtomicU64,
}

impl Attachment {
    pub(super) fn new(
        accelerator: &Arc<Accelerator>,
        engine: &Arc<Engine>,
    ) -> Result<Self, AttachError> {
        let share = Arc::new(Share {
            accelerator: Arc::clone(accelerator),
            context: accelerator.pmap().create()?,
            used: AtomicU64::new(0),
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            cap: AtomicU64::new(u64::MAX),
        });
        let hnode = engine
            .attach(Arc::clone(&share) as Arc<dyn Device>)
            .inspect_err(|_| accelerator.pmap().destroy(share.context))?;
        Ok(Self {
            engine: Arc::clone(engine),
            hnode,
            share,
            attached: true,
        })
    }

    /// Brings the page, with its granule, within the accelerator's reach for `access`. To be called from the accelerator's
    /// driver when the accelerator has faulted, with nothing under way that an invalidation waits for.
    pub fn fault(&self, page: PageNo, access: Access) -> Result<(), DeviceError> {
        self.engine
            .device_fault(self.hnode, page, access, Cause::Touch)
    }

    /// The same for an accelerator that will touch up to `pages` from there on, the page included: as many as lie together
    /// come along.
    pub fn fault_ahead(&self, page: PageNo, access: Access, pages: u64) -> Result<(), DeviceError> {
        let touch = Cause::Touch;
        let brought = self
            .engine
            .device_fault_ahead(self.hnode, page, access, touch, pages);
        brought.map(|_| ())
    }

    /// Brings the page, with its granule, into the accelerator's own memory, wherever a fault would leave it.
    pub fn bring(&self, page: PageNo, access: Access) -> Result<(), DeviceError> {
        self.engine
            .device_fault(self.hnode, page, access, Cause::Advice)
    }

    /// Notes that the accelerator accessed `bytes` of the page beneath the guest, over the link, in a command about up to
    /// `ahead` pages from there on. A page that turns out to be hot comes into its memory. To be called as [`Attachment::fault`] is.
    pub fn accessed_remotely(
        &self,
        page: PageNo,
        access: Access,
        bytes: u64,
        ahead: u64,
    ) -> Result<(), DeviceError> {
        self.engine
            .device_accessed(self.hnode, page, access, bytes, ahead)
    }

    /// Says where pages go that the accelerator touches, from now on.
    pub fn set_placement(&self, placement: Placement) {
        self.engine.set_placement(self.hnode, placement);
    }

    /// What crossed the accelerator's link so far.
    pub fn traffic(&self) -> Traffic {
        self.engine.traffic(self.hnode)
    }

    /// The number of its memory among the nodes of the address space: 0 is host RAM, then come the tiers.
    pub fn node(&self) -> u8 {
        self.hnode
    }

    /// The page tables that stand for this address space in the accelerator.
    pub fn context(&self) -> ContextId {
        self.share.context
    }

    /// How much of the accelerator's memory this address space uses, and may use.
    pub fn usage(&self) -> Usage {
        self.share.usage()
    }

    /// Limits how much of the accelerator's memory this address space may use, bytes. Copies make way for it; refused below
    /// what else it uses.
    pub fn set_cap(&self, bytes: u64) -> Result<(), CapError> {
        let before = self
            .share
            .cap
            .swap(bytes / PAGE_SIZE as u64, Ordering::SeqCst);
        let used = || self.share.used.load(Ordering::SeqCst) * PAGE_SIZE as u64;
        let excess = used().saturating_sub(bytes);
        self.engine
            .shed_copies(self.hnode, excess.div_ceil(PAGE_SIZE as u64));
        let used = used();
        if used > bytes {
            self.share.cap.store(before, Ordering::SeqCst);
            return Err(CapError {
                name: self.share.accelerator.name().to_owned(),
                used: Bytes(used),
                asked: Bytes(bytes),
            });
        }
        Ok(())
    }

    /// Gives every page back to host RAM and the tiers, and ends the attachment. The accelerator must ask for nothing any
    /// more. Fails if there is no room: everything that did not fit stays where it is, attached.
    pub fn detach(mut self) -> Result<(), (Self, DeviceError)> {
        match self.try_detach() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    fn try_detach(&mut self) -> Result<(), DeviceError> {
        if self.attached {
            self.engine.detach(self.hnode)?;
            self.attached = false;
            self.share.accelerator.pmap().destroy(self.share.context);
        }
        Ok(())
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("hnode", &self.hnode)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // What does not fit stays in the accelerator's memory, where vCPUs still find it: the engine keeps it.
        let _ = self.try_detach();
    }
}

impl Share {
    /// Counts `pages` more as used, if the cap allows it.
    fn reserve(&self, pages: u64) -> bool {
        let cap = self.cap.load(Ordering::SeqCst);
        let more = |used: u64| used.checked_add(pages).filter(|used| *used <= cap);
        let reserved = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        reserved.is_ok()
    }
}

impl Hnode for Share {
    fn name(&self) -> &str {
        self.accelerator.name()
    }

    fn kind(&self) -> Kind {
        Kind::Hbm
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: false,
            persistent: false,
            latency: LatencyClass::Memory,
            owner: Owner::Process,
        }
    }

    fn usage(&self) -> Usage {
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        let pages = self.held.load(Ordering::SeqCst);
        let cap = self
            .cap
            .load(Ordering::SeqCst)
            .saturating_mul(PAGE_SIZE as u64);
        Usage {
            capacity_bytes: self.accelerator.memory().bytes().min(cap),
            used_bytes: bytes(pages),
            peak_bytes: bytes(self.peak.load(Ordering::Relaxed)),
            pages,
        }
    }

    /// None: others may have taken it all.
    fn guaranteed_pages(&self) -> u64 {
        0
    }

    fn free_pages(&self) -> u64 {
        let left = self
            .cap
            .load(Ordering::SeqCst)
            .saturating_sub(self.used.load(Ordering::SeqCst));
        self.accelerator.memory().free_pages().min(left)
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        if bytes.len() != PAGE_SIZE {
            return Err(StoreError::Unit(bytes.len()));
        }
        let frame = self.take(1).ok_or(StoreError::Full)?;
        self.fill(frame, bytes);
        Ok(frame)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let pages = (0..(into.len() / PAGE_SIZE) as u64).map(|i| Frame(frame.0 + i));
        self.accelerator
            .memory()
            .fetch(&pages.collect::<Vec<_>>(), into);
        Ok(())
    }

    fn free(&self, frame: Frame, unit: Unit) {
        // Before somebody else can take them: what all have is never more than there is.
        self.held.fetch_sub(unit.pages() as u64, Ordering::SeqCst);
        for i in 0..unit.pages() as u64 {
            self.accelerator.memory().give_back(Frame(frame.0 + i));
        }
        self.used.fetch_sub(unit.pages() as u64, Ordering::SeqCst);
    }

    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        self.accelerator.memory().fetch(frames, into);
        Ok(())
    }
}

impl Device for Share {
    fn granule(&self) -> usize {
        self.accelerator.pmap().granule()
    }

    fn take(&self, pages: usize) -> Option<Frame> {
        if !self.reserve(pages as u64) {
            return None;
        }
        let frame = self.accelerator.memory().take(pages);
        match frame {
            Some(_) => {
                let more = pages as u64;
                let held = self.held.fetch_add(more, Ordering::SeqCst) + more;
                self.peak.fetch_max(held, Ordering::Relaxed);
            }
            None => {
                self.used.fetch_sub(pages as u64, Ordering::SeqCst);
            }
        }
        frame
    }

    fn has_room(&self, pages: usize) -> bool {
        self.free_pages() >= pages as u64 && self.accelerator.memory().has_room(pages)
    }

    fn fill(&self, frame: Frame, bytes: &[u8]) {
        self.accelerator.memory().fill(frame, bytes);
    }

    fn zero(&self, frame: Frame, pages: usize) {
        self.accelerator.memory().zero(frame, pages);
    }

    fn map(&self, page: PageNo, reach: Reach) -> Result<(), MapError> {
        self.accelerator.pmap().map(self.context, page, reach)
    }

    fn reaches_host(&self) -> bool {
        self.accelerator.pmap().reaches_host(self.context)
    }

    fn withdraw(&self, page: PageNo, pages: usize) {
        self.accelerator.pmap().unmap(self.context, page, pages);
    }
}
