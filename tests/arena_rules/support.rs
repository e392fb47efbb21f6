//! What the tests share: an armed pair of guest RAM and arena, accesses in threads of their own, and looks at
//! what the kernel really has.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Once, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gmem_core::mmu::{Moved, Obstacle};
use gmem_core::page::{BLOCK_SIZE, PAGE_SIZE};
use gmem_vmm::memory::pagemap::{Pagemap, Run};
use gmem_vmm::memory::reserve::{Backing, Reservation};
use gmem_vmm::memory::userfault::{Event, Features, Mode, Reading, Userfault, Waking};

/// How long something that must happen may take on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// How long all the tests may take: they need a second or so.
const HANG: Duration = Duration::from_secs(120);
/// How long something that must not happen is watched.
pub const WATCH: Duration = Duration::from_millis(50);

/// A forked child keeps userfaultfds open: forking tests write-lock, tests that close one read-lock.
pub static FORKING: RwLock<()> = RwLock::new(());

/// Guest RAM and arena, registered as gmem registers them.
pub struct Rig {
    pub uffd: Userfault,
    pub guest: Reservation,
    pub arena: Reservation,
}

/// Opens a userfaultfd as gmem does. From the first one on a hang is a failure, not a hang.
pub fn open(reading: Reading, more: Features) -> Userfault {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        std::thread::spawn(|| {
            std::thread::sleep(HANG);
            eprintln!("a test waits for a page that nobody brings, since more than {HANG:?}");
            std::process::exit(101);
        });
    });
    Userfault::open_with(reading, more)
        .unwrap_or_else(|error| panic!("these tests need userfaultfd with MOVE: {error}"))
}

pub fn reserve(blocks: usize, backing: Backing) -> Reservation {
    Reservation::new(blocks * BLOCK_SIZE, backing).expect("address space")
}

impl Rig {
    /// A pair of `blocks` blocks each, never freed: a test that fails may leave a thread waiting in it.
    pub fn new(blocks: usize, backing: Backing) -> &'static Self {
        Self::with(blocks, backing, Features::default())
    }

    pub fn with(blocks: usize, backing: Backing, more: Features) -> &'static Self {
        let rig = Self {
            uffd: open(Reading::Polled, more),
            guest: reserve(blocks, backing),
            arena: reserve(blocks, backing),
        };
        let (guest, arena) = (&rig.guest, &rig.arena);
        rig.uffd
            .register(guest.start(), guest.len(), Mode::MissingAndWriteProtect)
            .expect("register guest RAM");
        rig.uffd
            .register(arena.start(), arena.len(), Mode::WriteProtect)
            .expect("register the arena");
        let rig = Box::leak(Box::new(rig));
        rig.assert_arena_raises_no_events();
        rig
    }

    /// Tests write to the arena from the thread that would have to answer an event.
    fn assert_arena_raises_no_events(&self) {
        let (start, len) = (self.arena.start(), self.arena.len());
        Access::start(move || put(start, 0)).result();
        assert!(!self.has_event(), "creating an arena slot raised an event");
        self.arena.discard(0, len).expect("discard");
    }

    /// Address of a guest page.
    pub fn page(&self, n: usize) -> usize {
        self.guest.start() + n * PAGE_SIZE
    }

    /// Address of an arena slot.
    pub fn slot(&self, n: usize) -> usize {
        self.arena.start() + n * PAGE_SIZE
    }

    /// Moves frames from arena slots to guest pages.
    pub fn bring(&self, slot: usize, page: usize, pages: usize) -> Moved {
        let len = pages * PAGE_SIZE;
        let (page, slot) = (self.page(page), self.slot(slot));
        self.uffd.move_pages(page, slot, len, Waking::Now)
    }

    /// Moves frames from guest pages to arena slots.
    pub fn evict(&self, page: usize, slot: usize, pages: usize) -> Moved {
        let len = pages * PAGE_SIZE;
        let (page, slot) = (self.page(page), self.slot(slot));
        self.uffd.move_pages(slot, page, len, Waking::Now)
    }

    /// The next event, which must come.
    pub fn event(&self) -> Event {
        next_event(&self.uffd)
    }

    /// Whether an event waits to be read.
    pub fn has_event(&self) -> bool {
        readable(&self.uffd, Duration::ZERO)
    }

    pub fn runs(&self, start: usize, pages: usize) -> Vec<Run> {
        runs(start, pages * PAGE_SIZE)
    }
}

pub fn whole(pages: usize) -> Moved {
    Moved {
        pages,
        stopped: None,
    }
}

pub fn stopped(pages: usize, obstacle: Obstacle) -> Moved {
    Moved {
        pages,
        stopped: Some(obstacle),
    }
}

pub fn runs(start: usize, len: usize) -> Vec<Run> {
    Pagemap::open()
        .and_then(|map| map.scan(start, len))
        .expect("PAGEMAP_SCAN (Linux 6.7)")
}

/// Bytes of page frames in the range.
pub fn resident(start: usize, len: usize) -> usize {
    let runs = runs(start, len);
    runs.iter()
        .filter(|run| !run.zero && !run.swapped)
        .map(|run| run.len)
        .sum()
}

pub fn next_event(uffd: &Userfault) -> Event {
    assert!(
        readable(uffd, DEADLINE),
        "no page fault event within {DEADLINE:?}"
    );
    let mut events = [Event::default()];
    let read = uffd.read_events(&mut events).expect("read an event");
    assert_eq!(read, 1);
    events[0]
}

pub fn readable(uffd: &Userfault, timeout: Duration) -> bool {
    let mut poll = libc::pollfd {
        fd: uffd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let timeout = timeout.as_millis() as libc::c_int;
    // SAFETY: one pollfd of ours.
    let ready = unsafe { libc::poll(&raw mut poll, 1, timeout) };
    ready == 1 && poll.revents == libc::POLLIN
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// An access to memory that may have to wait, in a thread of its own.
pub struct Access<T>(JoinHandle<T>);

impl<T: Send + 'static> Access<T> {
    pub fn start(access: impl FnOnce() -> T + Send + 'static) -> Self {
        Self(std::thread::spawn(access))
    }

    /// What the access found; it must come to an end.
    pub fn result(self) -> T {
        until("the access comes to an end", || self.0.is_finished());
        self.0.join().expect("the access")
    }

    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Checks that the access goes on waiting.
    pub fn assert_waits(&self) {
        std::thread::sleep(WATCH);
        assert!(!self.0.is_finished(), "the access did not wait");
    }
}

/// A read of one 8-byte word.
pub fn reading(address: usize) -> Access<u64> {
    Access::start(move || get(address))
}

pub fn get(address: usize) -> u64 {
    // SAFETY: every caller names aligned mapped memory of its own rig; volatile, since it may change.
    unsafe { (address as *const u64).read_volatile() }
}

pub fn put(address: usize, value: u64) {
    // SAFETY: as in `get`; no reference of Rust to that memory exists.
    unsafe { (address as *mut u64).write_volatile(value) }
}

/// Fills pages with words that differ between pages and seeds.
pub fn fill(start: usize, pages: usize, seed: u64) {
    for page in 0..pages {
        for word in 0..PAGE_SIZE / 8 {
            put(
                start + page * PAGE_SIZE + word * 8,
                word_of(seed, page, word),
            );
        }
    }
}

/// Checks one page that [`fill`] wrote as number `page`.
pub fn assert_filled(address: usize, page: usize, seed: u64) {
    for word in 0..PAGE_SIZE / 8 {
        let found = get(address + word * 8);
        assert_eq!(
            found,
            word_of(seed, page, word),
            "page {page} of seed {seed}, word {word}"
        );
    }
}

/// The word at index `word` of the page that [`fill`] wrote as number `page`.
pub fn word_of(seed: u64, page: usize, word: usize) -> u64 {
    (seed << 32 | (page as u64) << 16 | word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes a block so that it is one huge page.
pub fn make_huge(reservation: &Reservation, block: usize) {
    let offset = block * BLOCK_SIZE;
    let start = reservation.start() + offset;
    for _ in 0..20 {
        fill(start, BLOCK_SIZE / PAGE_SIZE, block as u64);
        if huge_bytes(start, BLOCK_SIZE) == BLOCK_SIZE {
            return;
        }
        reservation.discard(offset, BLOCK_SIZE).expect("discard");
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!(
        "no 2 MiB page could be had: these tests need memory that is not fragmented, and \
         /sys/kernel/mm/transparent_hugepage/enabled at madvise or always"
    );
}

/// Bytes of the range that are huge pages, by the page map.
pub fn huge_bytes(start: usize, len: usize) -> usize {
    let runs = runs(start, len);
    runs.iter().filter(|run| run.huge).map(|run| run.len).sum()
}

/// KiB of one kind in a reservation's mappings, by smaps. Only for a registered reservation: others may
/// share a mapping with their neighbours.
pub fn kib(reservation: &Reservation, key: &str) -> usize {
    smaps(reservation.start(), reservation.len())
        .iter()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(|rest| {
            rest.trim()
                .trim_end_matches(" kB")
                .parse::<usize>()
                .expect(key)
        })
        .sum()
}

/// The flags (`VmFlags`) of the mapping at an address.
pub fn vm_flags(address: usize) -> Vec<String> {
    smaps(address, PAGE_SIZE)
        .iter()
        .find_map(|line| line.strip_prefix("VmFlags:"))
        .expect("VmFlags in smaps")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// The lines of smaps about every mapping that overlaps the range.
fn smaps(start: usize, len: usize) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        let head = line.split(' ').next().unwrap_or("");
        if let Some((from, to)) = head.split_once('-') {
            let parse = |hex| usize::from_str_radix(hex, 16).expect("an address in smaps");
            inside = parse(from) < start + len && start < parse(to);
        } else if inside {
            lines.push(line.to_owned());
        }
    }
    assert!(!lines.is_empty(), "no mapping at {start:#x}");
    lines
}
