//! Invalidation with acknowledgement: on return, no execution unit uses a translation that was taken away.
//!
//! Time is cut into epochs: each invalidation begins one. A unit has a word in which it says whether it is inside a
//! chunk of work, and from which epoch on it has dropped what was invalidated.
//!
//! | the invalidator, of epoch `n` | a unit, for each chunk |
//! |---|---|
//! | changed the page table | 1. word = `ENTERING` |
//! | a. writes the range to the log | 2. fence |
//! | b. epoch = `n` (release) | 3. `e` = epoch (acquire) |
//! | c. fence | 4. drops all ranges of the log up to `e` from its TLB |
//! | d. waits until the word is `OUTSIDE` or at least `n` (acquire) | 5. word = `e` (release) |
//! | | 6. translates, accesses |
//! | | 7. word = `OUTSIDE` (release) |
//!
//! Why there is no access through an old translation after d:
//!
//! - d read `n` or more: from 5 of a chunk with `e >= n`. 3 acquired b, so 4 had the range, and walks in 6 see the
//!   changed table. All earlier chunks of the unit come before 5, so before the end of d.
//! - d read `OUTSIDE`: earlier chunks come before the 7 that wrote it. A later chunk's 1 is not yet seen by d, so the
//!   fence c comes before the fence 2 in their one order, and its 3 reads `n` or more: as above. This is what
//!   the fences are for: acquire and release alone would let both sides read the old.
//! - d reads anything else, `ENTERING` or an older epoch: it waits. The unit is inside one chunk, of at most a page,
//!   and then reads a new epoch: it never waits for a second chunk.
//!
//! So a unit must not wait inside: it leaves before it reports a fault, and while it is idle, which counts as
//! acknowledged. And it must touch no memory inside whose access may itself fault: whoever resolves that may be waiting here.
//! Of the guest's memory it touches only what does not leave before it has acknowledged.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gmem_core::page::{PageNo, PageRange};
use gmem_core::table::lock::Atomic;

use super::{Access, Fault, Format, LocalMemory, Tlb, Translation, walk};

/// The unit is in no chunk of work.
const OUTSIDE: u64 = 0;
/// It is about to read the epoch.
const ENTERING: u64 = 1;
/// The epoch before any invalidation.
const FIRST: u64 = 2;
/// Ranges that are remembered. A unit that has missed more drops everything.
const LOG_RANGES: usize = 64;

/// An atomic word, with a fence: a model checker puts its own in place.
pub trait Fence: Atomic {
    /// A sequentially consistent fence.
    fn fence();
}

impl Fence for AtomicU64 {
    fn fence() {
        std::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Units share no cache line: each writes its word twice in each chunk.
#[derive(Debug)]
#[repr(align(64))]
struct Padded<A>(A);

/// The invalidator of an address space, and what its units share with it.
#[derive(Debug)]
pub struct Shootdown<A: Fence = AtomicU64> {
    epoch: Padded<A>,
    units: Box<[Padded<A>]>,
    // No atomic is touched while this is locked, and nobody waits.
    log: Mutex<Log>,
}

#[derive(Debug)]
struct Log {
    /// The newest epoch written here.
    newest: u64,
    /// Epochs up to this one are not here any more.
    forgotten: u64,
    /// Ranges with their epochs, oldest first.
    ranges: VecDeque<(u64, PageRange)>,
}

impl<A: Fence> Shootdown<A> {
    /// An invalidator, and one execution unit for each of `tlbs`, which are empty.
    pub fn new(tlbs: impl IntoIterator<Item = Tlb>) -> (Arc<Self>, Vec<Unit<A>>) {
        let tlbs: Vec<Tlb> = tlbs.into_iter().collect();
        let shootdown = Arc::new(Self {
            epoch: Padded(A::new(FIRST)),
            units: tlbs.iter().map(|_| Padded(A::new(OUTSIDE))).collect(),
            log: Mutex::new(Log {
                newest: FIRST,
                forgotten: FIRST,
                ranges: VecDeque::with_capacity(LOG_RANGES),
            }),
        });
        let unit = |(index, tlb)| Unit {
            shootdown: shootdown.clone(),
            index,
            seen: FIRST,
            held: false,
            tlb,
        };
        let units = tlbs.into_iter().enumerate().map(unit).collect();
        (shootdown, units)
    }

    /// Makes every unit forget `ranges`, whose entries were changed before. On return no unit uses, nor ever will, a
    /// translation of them from before the call, and what units did with those is visible.
    ///
    /// Waits for at most one chunk of each unit. May be called from any thread but one that is [`Inside`].
    pub fn invalidate(&self, ranges: &[PageRange]) {
        if ranges.is_empty() {
            return;
        }
        let epoch = self.log().write(ranges);
        self.raise(epoch);
        A::fence();
        for Padded(word) in &self.units {
            let mut attempt = 0;
            while (ENTERING..epoch).contains(&word.load(Ordering::Acquire)) {
                A::give_way(attempt);
                attempt = attempt.saturating_add(1);
            }
        }
    }

    /// Makes the epoch at least `epoch`. Another invalidator may have been faster with a later one: it wrote to the log
    /// after this one, and so its epoch carries what this one did.
    fn raise(&self, epoch: u64) {
        let word = &self.epoch.0;
        loop {
            let now = word.load(Ordering::Acquire);
            if now >= epoch || word.exchange_if(now, epoch, Ordering::AcqRel, Ordering::Relaxed) {
                return;
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn write(&mut self, ranges: &[PageRange]) -> u64 {
        self.newest += 1;
        let newest = self.newest;
        self.ranges
            .extend(ranges.iter().map(|range| (newest, *range)));
        while self.ranges.len() > LOG_RANGES {
            if let Some((epoch, _)) = self.ranges.pop_front() {
                self.forgotten = epoch;
            }
        }
        newest
    }

    /// Drops from `tlb` what was invalidated after epoch `seen`, up to `epoch`.
    fn drop_from(&self, tlb: &mut Tlb, seen: u64, epoch: u64) {
        if seen < self.forgotten {
            tlb.flush();
            return;
        }
        for (number, range) in &self.ranges {
            if (seen + 1..=epoch).contains(number) {
                tlb.invalidate(*range);
            }
        }
    }
}

/// An execution unit's side: its TLB, which is of use only inside.
#[derive(Debug)]
pub struct Unit<A: Fence = AtomicU64> {
    shootdown: Arc<Shootdown<A>>,
    index: usize,
    /// What was invalidated up to this epoch is not in the TLB.
    seen: u64,
    /// It stays inside between chunks.
    held: bool,
    tlb: Tlb,
}

impl<A: Fence> Unit<A> {
    /// Begins a chunk of work, on at most a page: translations found until the guard is dropped may be used until
    /// then. Drop it before waiting for anything.
    pub fn enter(&mut self) -> Inside<'_, A> {
        if !self.held {
            self.go_in();
        }
        Inside(self)
    }

    /// Stays inside from now on, through any number of chunks, until [`Unit::release`]: nothing that it has translated is
    /// taken away meanwhile. For units that cannot fault; who invalidates waits for all of that.
    pub fn hold(&mut self) {
        if !self.held {
            self.go_in();
            self.held = true;
        }
    }

    /// Stays inside no longer.
    pub fn release(&mut self) {
        if self.held {
            self.held = false;
            self.go_out();
        }
    }

    /// Whether it stays inside.
    pub fn is_held(&self) -> bool {
        self.held
    }

    fn go_in(&mut self) {
        let shootdown = &*self.shootdown;
        let word = &shootdown.units[self.index].0;
        word.store(ENTERING, Ordering::Relaxed);
        A::fence();
        let epoch = shootdown.epoch.0.load(Ordering::Acquire);
        if epoch != self.seen {
            shootdown.log().drop_from(&mut self.tlb, self.seen, epoch);
            self.seen = epoch;
        }
        // What earlier chunks did goes along.
        word.store(epoch, Ordering::Release);
    }

    fn go_out(&self) {
        let word = &self.shootdown.units[self.index].0;
        word.store(OUTSIDE, Ordering::Release);
    }

    /// The unit's TLB, to see what it did.
    pub fn tlb(&self) -> &Tlb {
        &self.tlb
    }
}

impl<A: Fence> Drop for Unit<A> {
    fn drop(&mut self) {
        self.release();
    }
}

/// A unit in a chunk of work. Leaves when dropped.
#[derive(Debug)]
pub struct Inside<'a, A: Fence = AtomicU64>(&'a mut Unit<A>);

impl<A: Fence> Inside<'_, A> {
    /// The unit's TLB.
    pub fn tlb(&mut self) -> &mut Tlb {
        &mut self.0.tlb
    }

    /// Translates `page` for `access`: by the TLB, or by a [`walk()`], which the TLB keeps.
    ///
    /// # Errors
    ///
    /// The walk's fault. Leave, then report it.
    pub fn translate<F: Format>(
        &mut self,
        memory: &(impl LocalMemory + ?Sized),
        root: u64,
        page: PageNo,
        access: Access,
    ) -> Result<Translation, Fault> {
        if let Some(found) = self.tlb().lookup(page, access) {
            return Ok(found);
        }
        let found = walk::<F>(memory, root, page, access)?;
        self.tlb().insert(found);
        Ok(found)
    }
}

impl<A: Fence> Drop for Inside<'_, A> {
    fn drop(&mut self) {
        if !self.0.held {
            self.0.go_out();
        }
    }
}
