//! The lock in an entry's word.
//!
//! Invariants, checked with loom in `tests/entry_lock.rs`:
//!
//! - One holder at a time: bit 0 is set by compare-exchange only, and cleared by its holder only.
//! - What a holder did before it let go is visible to the next holder (release, acquire).
//! - A word that is let go without a commit says what it said before.

use super::entry::Entry;
use std::sync::atomic::{AtomicU64, Ordering};

const LOCK: u64 = 1;

/// The atomic beneath a [`Word`]; a trait so that a model checker can put its own in place.
pub trait Atomic {
    /// An atomic with this value.
    fn new(value: u64) -> Self;
    /// As [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// As [`AtomicU64::compare_exchange`], telling only whether it succeeded.
    fn exchange_if(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> bool;
    /// Gives way after the `attempt`-th failed attempt (from 0) to take a lock.
    fn give_way(attempt: u32);
}

impl Atomic for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn exchange_if(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> bool {
        self.compare_exchange(current, new, success, failure)
            .is_ok()
    }

    // A holder copies at most a few pages, or waits for a device: spinning is for the first case on
    // another CPU, yielding for a holder that was preempted on this one, sleeping for the device.
    fn give_way(attempt: u32) {
        match attempt {
            0..64 => std::hint::spin_loop(),
            64..1024 => std::thread::yield_now(),
            _ => std::thread::sleep(std::time::Duration::from_micros(50)),
        }
    }
}

/// One word of the logical page table.
#[derive(Debug)]
pub struct Word<A: Atomic = AtomicU64>(A);

impl<A: Atomic> Word<A> {
    /// An unlocked word that says `entry`.
    pub fn new(entry: Entry) -> Self {
        Self(A::new(entry.bits()))
    }

    /// What the word says at this moment; it may be locked and about to change.
    pub fn peek(&self) -> Entry {
        Entry::from_bits(self.0.load(Ordering::Acquire))
    }

    /// What the word says, if nobody has locked it.
    pub fn settled(&self) -> Option<Entry> {
        let bits = self.0.load(Ordering::Acquire);
        (bits & LOCK == 0).then(|| Entry::from_bits(bits))
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> bool {
        let bits = self.0.load(Ordering::Relaxed);
        bits & LOCK == 0
            && self
                .0
                .exchange_if(bits, bits | LOCK, Ordering::Acquire, Ordering::Relaxed)
    }

    /// Takes the lock, waiting for it.
    pub fn lock(&self) {
        let mut attempt = 0;
        while !self.try_lock() {
            A::give_way(attempt);
            attempt = attempt.saturating_add(1);
        }
    }

    /// Changes what the word says and keeps the lock. Only the lock's holder may call this.
    pub fn revise(&self, entry: Entry) {
        debug_assert!(
            self.0.load(Ordering::Relaxed) & LOCK != 0,
            "the word is not locked"
        );
        self.0.store(entry.bits() | LOCK, Ordering::Release);
    }

    /// Changes what the word says and lets the lock go. Only the lock's holder may call this.
    pub fn unlock(&self, entry: Entry) {
        debug_assert!(
            self.0.load(Ordering::Relaxed) & LOCK != 0,
            "the word is not locked"
        );
        self.0.store(entry.bits(), Ordering::Release);
    }
}
