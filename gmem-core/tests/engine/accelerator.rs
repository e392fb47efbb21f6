//! An accelerator without a driver: page tables that are a map, and accesses that go through them.

use crate::simulated::{Bench, Fuse};
use gmem_core::accel::{Accelerator, Attachment, ContextId, Pmap};
use gmem_core::engine::{DeviceError, Engine};
use gmem_core::hnode::device::MapError;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::local::LocalMemory;
use gmem_core::page::{PAGE_SIZE, PageNo};
use gmem_core::table::Frame;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Page tables of all contexts: page to frame, in whole granules. An access holds the lock, so whoever unmaps waits
/// for it: that is the acknowledgement.
pub struct Tables {
    granule: usize,
    mapped: Mutex<HashMap<(ContextId, PageNo), Frame>>,
    contexts: AtomicU32,
    open: AtomicU32,
    pub map_fuse: Arc<Fuse>,
}

impl Tables {
    fn granule_of(&self, page: PageNo) -> impl Iterator<Item = PageNo> + use<> {
        let first = page.0 / self.granule as u64 * self.granule as u64;
        (first..first + self.granule as u64).map(PageNo)
    }

    /// Contexts that are there.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::SeqCst)
    }

    /// The pages that are mapped in `context`.
    pub fn pages(&self, context: ContextId) -> Vec<PageNo> {
        let mapped = self.mapped.lock().unwrap();
        let of = |((of, page), _): (&(ContextId, PageNo), _)| (*of == context).then_some(*page);
        mapped.iter().filter_map(of).collect()
    }
}

impl Pmap for Tables {
    fn granule(&self) -> usize {
        self.granule
    }

    fn create(&self) -> Result<ContextId, MapError> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(ContextId(self.contexts.fetch_add(1, Ordering::SeqCst)))
    }

    fn destroy(&self, context: ContextId) {
        self.open.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(self.pages(context), [], "destroyed with pages mapped");
    }

    fn map(&self, context: ContextId, page: PageNo, frame: Frame) -> Result<(), MapError> {
        assert!(page.0.is_multiple_of(self.granule as u64));
        assert!(frame.0.is_multiple_of(self.granule as u64));
        if self.map_fuse.blows() {
            return Err(MapError::Tables("sim".into()));
        }
        let mut mapped = self.mapped.lock().unwrap();
        for (i, page) in (0..).zip(self.granule_of(page)) {
            mapped.insert((context, page), Frame(frame.0 + i));
        }
        Ok(())
    }

    fn unmap(&self, context: ContextId, page: PageNo, pages: usize) {
        let mut mapped = self.mapped.lock().unwrap();
        for page in (0..pages as u64).map(|i| page.add(i)) {
            for page in self.granule_of(page) {
                mapped.remove(&(context, page));
            }
        }
    }
}

/// An accelerator with `pages` of memory.
pub struct Sim {
    pub accelerator: Arc<Accelerator>,
    pub tables: Arc<Tables>,
}

impl Sim {
    pub fn new(name: &str, pages: u64, granule: usize) -> Self {
        let memory = LocalMemory::new(pages * PAGE_SIZE as u64, 0, Link::new(0.0, 0.0)).unwrap();
        let tables = Arc::new(Tables {
            granule,
            mapped: Mutex::default(),
            contexts: AtomicU32::new(0),
            open: AtomicU32::new(0),
            map_fuse: Fuse::new(),
        });
        Self {
            accelerator: Accelerator::new(name, Arc::new(memory), tables.clone()),
            tables,
        }
    }

    pub fn attach(&self, engine: &Arc<Engine>) -> User {
        User {
            attachment: self.accelerator.attach(engine).unwrap(),
            tables: Arc::clone(&self.tables),
            memory: Arc::clone(self.accelerator.memory()),
        }
    }
}

/// A program on an accelerator, in one address space.
pub struct User {
    pub attachment: Attachment,
    tables: Arc<Tables>,
    memory: Arc<LocalMemory>,
}

impl User {
    /// Does `access` at the page's offset in the accelerator's memory, faulting until it is mapped.
    fn access<T>(
        &self,
        page: PageNo,
        access: impl Fn(&LocalMemory, usize) -> T,
    ) -> Result<T, DeviceError> {
        loop {
            {
                let mapped = self.tables.mapped.lock().unwrap();
                if let Some(frame) = mapped.get(&(self.attachment.context(), page)) {
                    return Ok(access(&self.memory, frame.0 as usize * PAGE_SIZE));
                }
            }
            self.attachment.fault(page)?;
        }
    }

    pub fn read(&self, page: PageNo) -> Result<u64, DeviceError> {
        self.access(page, |memory, at| {
            let mut bytes = [0; PAGE_SIZE];
            memory.read(at, &mut bytes);
            crate::simulated::word_of(&bytes)
        })
    }

    pub fn write(&self, page: PageNo, word: u64) -> Result<(), DeviceError> {
        self.access(page, |memory, at| {
            memory.write(at, &crate::simulated::page_of(word));
        })
    }

    /// Adds to the page's first word, which is all that there is in it.
    pub fn add(&self, page: PageNo, by: u64) -> Result<(), DeviceError> {
        self.access(page, |memory, at| {
            memory.word(at).fetch_add(by, Ordering::Relaxed);
        })
    }

    pub fn pages(&self) -> Vec<PageNo> {
        self.tables.pages(self.attachment.context())
    }
}

impl Bench {
    /// Checks that the books agree, and that no page is within the reach of two.
    pub fn audit_with(&self, users: &[&User]) {
        self.audit();
        let mut reached = std::collections::HashSet::new();
        for page in users.iter().flat_map(|user| user.pages()) {
            assert!(reached.insert(page), "{page} is mapped by two accelerators");
            assert!(!self.guest.is_present(page), "{page} is the guest's too");
        }
    }
}
