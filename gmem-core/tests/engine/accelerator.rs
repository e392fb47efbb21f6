//! An accelerator without a driver: page tables that are a map, and accesses that go through them.

use crate::simulated::{Bench, Fuse, Guest};
use gmem_core::accel::{Accelerator, Access, Attachment, ContextId, Placement, Pmap, Reach};
use gmem_core::engine::DeviceError;
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
    mapped: Mutex<HashMap<(ContextId, PageNo), Reach>>,
    reaches_host: bool,
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

    /// The pages that are mapped in `context`, and how.
    pub fn reached(&self, context: ContextId) -> Vec<(PageNo, Reach)> {
        let mapped = self.mapped.lock().unwrap();
        let of = |((of, page), reach): (&(ContextId, PageNo), &Reach)| {
            (*of == context).then_some((*page, *reach))
        };
        mapped.iter().filter_map(of).collect()
    }

    /// The pages that are mapped in `context`.
    pub fn pages(&self, context: ContextId) -> Vec<PageNo> {
        let reached = self.reached(context);
        reached.into_iter().map(|(page, _)| page).collect()
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

    fn map(&self, context: ContextId, page: PageNo, reach: Reach) -> Result<(), MapError> {
        assert!(page.0.is_multiple_of(self.granule as u64));
        if self.map_fuse.blows() {
            return Err(MapError::Tables("sim".into()));
        }
        let mut mapped = self.mapped.lock().unwrap();
        for (i, page) in (0..).zip(self.granule_of(page)) {
            let reach = match reach {
                Reach::Local { frame, writable } => {
                    assert!(i > 0 || frame.0.is_multiple_of(self.granule as u64));
                    let frame = Frame(frame.0 + i);
                    Reach::Local { frame, writable }
                }
                Reach::Host => {
                    assert!(self.reaches_host);
                    Reach::Host
                }
            };
            mapped.insert((context, page), reach);
        }
        Ok(())
    }

    fn reaches_host(&self, _: ContextId) -> bool {
        self.reaches_host
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
    /// One that uses its own memory only.
    pub fn new(name: &str, pages: u64, granule: usize) -> Self {
        Self::with(name, pages, granule, false)
    }

    /// One that can use the guest's memory in place, too.
    pub fn reaching(name: &str, pages: u64, granule: usize) -> Self {
        Self::with(name, pages, granule, true)
    }

    fn with(name: &str, pages: u64, granule: usize, reaches_host: bool) -> Self {
        let memory = LocalMemory::new(pages * PAGE_SIZE as u64, 0, Link::new(0.0, 0.0)).unwrap();
        let tables = Arc::new(Tables {
            granule,
            reaches_host,
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

    /// Attached so that whatever it touches is its own.
    pub fn attach(&self, bench: &Bench) -> User {
        let user = self.attach_adaptive(bench);
        user.attachment.set_placement(Placement::FirstTouch);
        user
    }

    pub fn attach_adaptive(&self, bench: &Bench) -> User {
        User {
            attachment: self.accelerator.attach(&bench.engine).unwrap(),
            guest: Arc::clone(&bench.guest),
            tables: Arc::clone(&self.tables),
            memory: Arc::clone(self.accelerator.memory()),
        }
    }
}

/// A program on an accelerator, in one address space.
pub struct User {
    pub attachment: Attachment,
    guest: Arc<Guest>,
    tables: Arc<Tables>,
    memory: Arc<LocalMemory>,
}

impl User {
    /// Lets `work` change a copy of the page's bytes, which are written back if `access` writes. In reach all the while:
    /// the tables stay locked, as a unit stays in its chunk.
    fn access<T>(
        &self,
        page: PageNo,
        access: Access,
        work: impl Fn(&mut [u8; PAGE_SIZE]) -> T,
    ) -> Result<T, DeviceError> {
        loop {
            let done = {
                let mapped = self.tables.mapped.lock().unwrap();
                let writes = access == Access::Write;
                match mapped.get(&(self.attachment.context(), page)) {
                    Some(Reach::Local { frame, writable }) if *writable || !writes => {
                        let (at, mut bytes) = (frame.0 as usize * PAGE_SIZE, [0; PAGE_SIZE]);
                        self.memory.read(at, &mut bytes);
                        let result = work(&mut bytes);
                        if writes {
                            self.memory.write(at, &bytes);
                        }
                        return Ok(result);
                    }
                    Some(Reach::Host) if writes => {
                        let mut result = None;
                        self.guest
                            .change_remotely(page, |bytes| result = Some(work(bytes)));
                        result
                    }
                    Some(Reach::Host) => {
                        let bytes = self.guest.bytes(page);
                        Some(work(&mut bytes.expect("reached, and not there")))
                    }
                    _ => None,
                }
            };
            match done {
                Some(result) => {
                    self.attachment.accessed_remotely(page, access, 512, 1)?;
                    return Ok(result);
                }
                None => self.attachment.fault(page, access)?,
            }
        }
    }

    pub fn read(&self, page: PageNo) -> Result<u64, DeviceError> {
        self.access(page, Access::Read, |bytes| crate::simulated::word_of(bytes))
    }

    pub fn write(&self, page: PageNo, word: u64) -> Result<(), DeviceError> {
        self.access(page, Access::Write, |bytes| {
            *bytes = crate::simulated::page_of(word);
        })
    }

    /// Adds to the page's first word, which is all that there is in it.
    pub fn add(&self, page: PageNo, by: u64) -> Result<(), DeviceError> {
        self.access(page, Access::Write, |bytes| {
            let word = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            bytes[..8].copy_from_slice(&(word + by).to_ne_bytes());
        })
    }

    /// The first word of a page.
    pub fn first_word(&self, page: PageNo) -> Result<u64, DeviceError> {
        self.access(page, Access::Read, |bytes| {
            u64::from_ne_bytes(bytes[..8].try_into().unwrap())
        })
    }

    /// How it reaches a page, if it does.
    pub fn reach(&self, page: PageNo) -> Option<Reach> {
        let reached = self.tables.reached(self.attachment.context());
        let of = |(of, reach): (PageNo, Reach)| (of == page).then_some(reach);
        reached.into_iter().find_map(of)
    }

    /// Whether it has a copy of a page, for reading.
    pub fn has_copy(&self, page: PageNo) -> bool {
        matches!(
            self.reach(page),
            Some(Reach::Local {
                writable: false,
                ..
            })
        )
    }

    pub fn pages(&self) -> Vec<PageNo> {
        self.tables.pages(self.attachment.context())
    }
}

impl Bench {
    /// Checks that the books agree; that what one may write in its own memory no other has; that copies are as what
    /// others see, who may not write it; and that what is reached beneath the guest is there.
    pub fn audit_with(&self, users: &[&User]) {
        self.audit();
        let mut reached: HashMap<PageNo, Vec<(&User, Reach)>> = HashMap::new();
        for user in users {
            for (page, reach) in user.tables.reached(user.attachment.context()) {
                reached.entry(page).or_default().push((user, reach));
            }
        }
        for (page, ways) in reached {
            let bytes = |user: &User, frame: Frame| {
                let mut bytes = [0; PAGE_SIZE];
                user.memory.read(frame.0 as usize * PAGE_SIZE, &mut bytes);
                bytes
            };
            let mut copies = ways.iter().filter_map(|(user, reach)| match reach {
                Reach::Local {
                    frame,
                    writable: false,
                } => Some(bytes(user, *frame)),
                _ => None,
            });
            if let Some(first) = copies.next() {
                assert!(copies.all(|copy| copy == first), "{page}: copies differ");
                let beneath = self.guest.bytes(page);
                assert!(
                    beneath.is_none_or(|bytes| bytes == first),
                    "{page}: a copy is old"
                );
                let open = beneath.is_some() && !self.guest.is_protected(page);
                assert!(!open, "{page} is copied, and may be written");
            }
            for (_, reach) in &ways {
                match reach {
                    Reach::Local { writable: true, .. } => {
                        assert_eq!(ways.len(), 1, "{page} is another accelerator's too");
                        assert!(!self.guest.is_present(page), "{page} is the guest's too");
                    }
                    Reach::Local { .. } => {}
                    Reach::Host => {
                        assert!(
                            self.guest.is_present(page),
                            "{page} is reached, and not there"
                        );
                        assert!(
                            !self.guest.is_protected(page),
                            "{page} is reached, and protected"
                        );
                        assert!(ways.iter().all(|(_, reach)| *reach == Reach::Host));
                    }
                }
            }
        }
    }
}
