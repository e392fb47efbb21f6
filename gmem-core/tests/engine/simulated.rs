//! Parts for engines without a guest: an MMU that copies, protects, and fails on demand.

use gmem_core::engine::{Config, Engine};
use gmem_core::hnode::Hnode;
use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::ram::Arena;
use gmem_core::hnode::zip::Zip;
use gmem_core::mmu::{HostAddress, Mmu, Moved, Obstacle, Promoted};
use gmem_core::page::{BLOCK_PAGES, PAGE_SIZE, PageNo, PageRange, Unit};
use gmem_core::policy::Prefetching;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Fails once, after so many successes; negative: never.
#[derive(Debug)]
pub struct Fuse(AtomicI64);

impl Fuse {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(-1)))
    }

    pub fn fail_after(&self, successes: i64) {
        self.0.store(successes, Ordering::SeqCst);
    }

    pub fn never(&self) {
        self.fail_after(-1);
    }

    pub fn blows(&self) -> bool {
        self.0.fetch_sub(1, Ordering::SeqCst) == 0
    }
}

type Hook = Option<Box<dyn Fn(PageNo) + Send>>;

/// A page beneath the guest.
struct Present {
    bytes: Box<[u8; PAGE_SIZE]>,
    protected: bool,
}

/// A guest's memory, reached by copies where the real one moves frames.
pub struct Guest {
    pages: Mutex<HashMap<PageNo, Present>>,
    /// Who is told of writes to protected pages.
    engine: OnceLock<Weak<Engine>>,
    /// Whether pages can be protected.
    pub protects: AtomicBool,
    /// What happens after pages were protected, and before anybody copies them.
    pub on_protect: Mutex<Hook>,
    /// What happens after a page came beneath the guest, and before anybody else knows.
    pub on_map: Mutex<Hook>,
    /// Ranges that were dropped.
    pub discarded: AtomicUsize,
    pub woken: Mutex<Vec<PageNo>>,
    /// What else happens when somebody is woken.
    pub on_wake: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Pages that somebody else has pinned.
    pub busy: Mutex<HashSet<PageNo>>,
    /// What becomes of blocks that are to be one frame.
    pub promotes: Mutex<Promoted>,
    pub map_fuse: Arc<Fuse>,
    pub unmap_fuse: Arc<Fuse>,
}

const BROKEN: Obstacle = Obstacle::Failed(5);

impl Guest {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pages: Mutex::default(),
            engine: OnceLock::new(),
            protects: AtomicBool::new(true),
            on_protect: Mutex::default(),
            on_map: Mutex::default(),
            discarded: AtomicUsize::new(0),
            woken: Mutex::default(),
            on_wake: Mutex::default(),
            busy: Mutex::default(),
            promotes: Mutex::new(Promoted::Done),
            map_fuse: Fuse::new(),
            unmap_fuse: Fuse::new(),
        })
    }

    /// The first word of a present page.
    pub fn read(&self, page: PageNo) -> Option<u64> {
        self.bytes(page).map(|bytes| word_of(&bytes))
    }

    /// A present page's bytes.
    pub fn bytes(&self, page: PageNo) -> Option<[u8; PAGE_SIZE]> {
        let pages = self.pages.lock().unwrap();
        pages.get(&page).map(|present| *present.bytes)
    }

    /// Whether a page is present.
    pub fn is_present(&self, page: PageNo) -> bool {
        self.pages.lock().unwrap().contains_key(&page)
    }

    /// Adds to the first word of a present page; false if it is not.
    pub fn add_if_present(&self, page: PageNo, by: u64) -> bool {
        self.change(page, |bytes| {
            let word = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
            bytes[..8].copy_from_slice(&(word + by).to_ne_bytes());
        })
    }

    /// Writes to a present page, as a vCPU does: it waits while the page is protected. False if the page is not there.
    fn change(&self, page: PageNo, write: impl FnOnce(&mut [u8; PAGE_SIZE])) -> bool {
        loop {
            {
                let mut pages = self.pages.lock().unwrap();
                match pages.get_mut(&page) {
                    None => return false,
                    Some(present) if !present.protected => {
                        write(&mut present.bytes);
                        return true;
                    }
                    Some(_) => {}
                }
            }
            let engine = self.engine.get().and_then(Weak::upgrade);
            engine
                .expect("pages are protected by an engine")
                .write_fault(page)
                .unwrap();
        }
    }

    /// Writes to a page as an accelerator does, in the middle of a chunk: it must not wait.
    pub fn change_remotely(&self, page: PageNo, write: impl FnOnce(&mut [u8; PAGE_SIZE])) {
        let mut pages = self.pages.lock().unwrap();
        let present = pages.get_mut(&page).expect("reached, and not there");
        assert!(!present.protected, "{page} is reached, and protected");
        write(&mut present.bytes);
    }

    /// Whether a page is there and protected.
    pub fn is_protected(&self, page: PageNo) -> bool {
        let pages = self.pages.lock().unwrap();
        pages.get(&page).is_some_and(|present| present.protected)
    }

    /// The first word of a present page, of which only that is written.
    pub fn first_word(&self, page: PageNo) -> Option<u64> {
        self.bytes(page)
            .map(|bytes| u64::from_ne_bytes(bytes[..8].try_into().unwrap()))
    }

    /// Puts these bytes into a present page.
    pub fn write_bytes(&self, page: PageNo, bytes: [u8; PAGE_SIZE]) {
        self.change(page, |there| *there = bytes);
    }

    /// Whether a page is present and all zeros.
    pub fn read_zero(&self, page: PageNo) -> bool {
        let pages = self.pages.lock().unwrap();
        pages
            .get(&page)
            .is_some_and(|present| present.bytes.iter().all(|byte| *byte == 0))
    }

    /// Fills a page if it is present; returns whether it is.
    pub fn write_if_present(&self, page: PageNo, word: u64) -> bool {
        self.change(page, |bytes| *bytes = page_of(word))
    }

    /// Fills a page, present or not (as an access that has been resolved would).
    pub fn write(&self, page: PageNo, word: u64) {
        if !self.write_if_present(page, word) {
            let bytes = Box::new(page_of(word));
            self.insert(page, bytes);
        }
    }

    fn insert(&self, page: PageNo, bytes: Box<[u8; PAGE_SIZE]>) {
        let present = Present {
            bytes,
            protected: false,
        };
        self.pages.lock().unwrap().insert(page, present);
    }
}

/// A page of one write: its first word, and bytes that follow from it.
pub fn page_of(word: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    bytes[..8].copy_from_slice(&word.to_ne_bytes());
    for (at, byte) in bytes.iter_mut().enumerate().skip(8) {
        *byte = fill_byte(word, at);
    }
    bytes
}

/// The first word of a page, which must be of one write.
pub fn word_of(bytes: &[u8; PAGE_SIZE]) -> u64 {
    let word = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(*bytes, page_of(word), "the page is not of one write");
    word
}

/// Zeros for word 0; one value throughout for words below 8; else bytes that compress to about a half.
fn fill_byte(word: u64, at: usize) -> u8 {
    match word {
        0 => 0,
        1..8 => word.to_ne_bytes()[at % 8],
        _ if at.is_multiple_of(2) => word as u8,
        _ => {
            (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 56)) as u8
                ^ (at as u8).wrapping_mul(37)
        }
    }
}

impl Mmu for Guest {
    fn map(&self, slot: HostAddress, page: PageNo, pages: usize) -> Moved {
        for done in 0..pages {
            if self.map_fuse.blows() {
                return Moved {
                    pages: done,
                    stopped: Some(BROKEN),
                };
            }
            // SAFETY: the engine owns the slots that it names and has filled them.
            let bytes = unsafe { *((slot.0 + done * PAGE_SIZE) as *const [u8; PAGE_SIZE]) };
            if self.is_present(page.add(done as u64)) {
                return Moved {
                    pages: done,
                    stopped: Some(Obstacle::Present),
                };
            }
            self.insert(page.add(done as u64), Box::new(bytes));
            if let Some(on_map) = &*self.on_map.lock().unwrap() {
                on_map(page.add(done as u64));
            }
        }
        Moved {
            pages,
            stopped: None,
        }
    }

    fn copy_in(&self, page: PageNo, bytes: &[u8]) -> Option<Moved> {
        let slot = HostAddress(bytes.as_ptr() as usize);
        Some(self.map(slot, page, bytes.len() / PAGE_SIZE))
    }

    fn unmap(&self, page: PageNo, slot: HostAddress, pages: usize) -> Moved {
        for done in 0..pages {
            let page = page.add(done as u64);
            if self.unmap_fuse.blows() {
                return Moved {
                    pages: done,
                    stopped: Some(BROKEN),
                };
            }
            if self.busy.lock().unwrap().contains(&page) {
                return Moved {
                    pages: done,
                    stopped: Some(Obstacle::Busy),
                };
            }
            let Some(present) = self.pages.lock().unwrap().remove(&page) else {
                return Moved {
                    pages: done,
                    stopped: Some(Obstacle::Absent),
                };
            };
            // SAFETY: the engine owns the slots that it names, empty.
            unsafe { *((slot.0 + done * PAGE_SIZE) as *mut [u8; PAGE_SIZE]) = *present.bytes }
        }
        Moved {
            pages,
            stopped: None,
        }
    }

    fn wake(&self, page: PageNo, pages: usize) {
        let pages = (0..pages as u64).map(|more| page.add(more));
        self.woken.lock().unwrap().extend(pages);
        if let Some(on_wake) = &*self.on_wake.lock().unwrap() {
            on_wake();
        }
    }

    fn protect(&self, page: PageNo, pages: usize) -> bool {
        if !self.protects.load(Ordering::SeqCst) {
            return false;
        }
        for page in (0..pages as u64).map(|more| page.add(more)) {
            if let Some(present) = self.pages.lock().unwrap().get_mut(&page) {
                present.protected = true;
            }
        }
        if let Some(on_protect) = &*self.on_protect.lock().unwrap() {
            on_protect(page);
        }
        true
    }

    fn unprotect(&self, page: PageNo, pages: usize) {
        for page in (0..pages as u64).map(|more| page.add(more)) {
            if let Some(present) = self.pages.lock().unwrap().get_mut(&page) {
                present.protected = false;
            }
        }
    }

    fn discard(&self, ranges: &[(PageNo, usize)]) -> usize {
        for (first, pages) in ranges {
            for page in (0..*pages as u64).map(|more| first.add(more)) {
                let dropped = self.pages.lock().unwrap().remove(&page);
                let present = dropped.expect("dropped, and not there");
                assert!(present.protected, "dropped while others may write");
            }
        }
        self.discarded.fetch_add(ranges.len(), Ordering::SeqCst);
        ranges.len()
    }

    fn promote(&self, page: PageNo) -> Promoted {
        let there = self.pages.lock().unwrap();
        for page in (page.0..).take(BLOCK_PAGES).map(PageNo) {
            let present = there.get(&page).expect("promoted, and not there");
            assert!(!present.protected, "{page} is promoted, and protected");
        }
        *self.promotes.lock().unwrap()
    }

    fn read(&self, page: PageNo, into: &mut [u8]) -> bool {
        for (page, into) in (page.0..).zip(into.chunks_exact_mut(PAGE_SIZE)) {
            let there = self.pages.lock().unwrap();
            let present = there.get(&PageNo(page)).expect("read, and not there");
            assert!(present.protected, "read while others may write");
            into.copy_from_slice(&*present.bytes);
        }
        true
    }
}

pub fn hbm(pages: u64) -> Box<dyn Hnode> {
    Box::new(Hbm::new("hbm", pages * PAGE_SIZE as u64, Link::new(0.0, 0.0)).unwrap())
}

pub fn zip(bytes: u64) -> Box<dyn Hnode> {
    Box::new(Zip::new("zip", bytes).unwrap())
}

pub struct Bench {
    pub engine: Arc<Engine>,
    pub guest: Arc<Guest>,
}

/// An engine over `memory` pages with a budget of `host` pages.
pub fn bench(memory: u64, host: u64, unit: Unit, tiers: Vec<Box<dyn Hnode>>) -> Bench {
    bench_with(memory, host, unit, tiers, false).unwrap()
}

pub fn bench_with(
    memory: u64,
    host: u64,
    unit: Unit,
    tiers: Vec<Box<dyn Hnode>>,
    overcommit: bool,
) -> Result<Bench, gmem_core::engine::ConfigError> {
    let guest = Guest::new();
    let config = Config {
        ram: vec![PageRange::new(PageNo(0), memory)],
        unplugged: 0,
        unit,
        arena: Arena::new(host, unit).unwrap(),
        tiers,
        overcommit,
        prefetch: Prefetching::default(),
    };
    let engine = Arc::new(Engine::new(config, guest.clone())?);
    let _ = guest.engine.set(Arc::downgrade(&engine));
    Ok(Bench { engine, guest })
}

impl Bench {
    pub fn audit(&self) -> gmem_core::engine::Audit {
        let audit = self.engine.audit(&self.engine.quiesce());
        assert_eq!(audit.contradictions, Vec::<String>::new());
        audit
    }
}
