//! Every interleaving of the entry's lock, by loom.

use gmem_core::table::lock::{Atomic, Word};
use gmem_core::table::{Entry, Flags, Frame, State};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

struct Loomed(AtomicU64);

impl Atomic for Loomed {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn exchange_if(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> bool {
        self.0
            .compare_exchange(current, new, success, failure)
            .is_ok()
    }

    fn give_way(_: u32) {
        loom::thread::yield_now();
    }
}

/// A page: its word, and the bytes that the word's lock guards. Loom reports a data race on the bytes if
/// two holders overlap or if the order does not carry what one wrote to the next.
struct Page {
    word: Word<Loomed>,
    bytes: UnsafeCell<u64>,
}

// SAFETY: the bytes are only reached by the holder of the word's lock; that this excludes is what loom checks.
unsafe impl Sync for Page {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Page {}

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: Word::new(Entry::new(State::Untouched, Flags::NONE)),
            bytes: UnsafeCell::new(0),
        })
    }

    fn migrate(&self) {
        self.bytes.with_mut(|bytes| {
            // SAFETY: the caller holds the word's lock.
            unsafe { *bytes += 1 }
        });
        let frame = match self.word.peek().state() {
            State::Held(place) => place.frame.0 + 1,
            _ => 1,
        };
        self.word.unlock(Entry::held(1, Frame(frame), Flags::NONE));
    }
}

fn ended_at(page: &Page, migrations: u64) {
    page.word.lock();
    let bytes = page.bytes.with(|bytes| {
        // SAFETY: the lock is held.
        unsafe { *bytes }
    });
    assert_eq!(bytes, migrations);
    assert_eq!(
        page.word.peek(),
        Entry::held(1, Frame(migrations), Flags::NONE)
    );
}

#[test]
fn two_who_wait_for_a_page_take_turns_and_lose_no_update() {
    loom::model(|| {
        let page = Page::new();
        let other = {
            let page = page.clone();
            loom::thread::spawn(move || {
                page.word.lock();
                page.migrate();
            })
        };
        page.word.lock();
        page.migrate();
        other.join().unwrap();
        ended_at(&page, 2);
    });
}

#[test]
fn who_only_tries_either_migrates_alone_or_leaves_the_page_alone() {
    loom::model(|| {
        let page = Page::new();
        let other = {
            let page = page.clone();
            loom::thread::spawn(move || {
                let won = page.word.try_lock();
                if won {
                    page.migrate();
                }
                won
            })
        };
        page.word.lock();
        page.migrate();
        let won = other.join().unwrap();
        ended_at(&page, 1 + u64::from(won));
    });
}

#[test]
fn a_lock_let_go_without_a_commit_leaves_the_entry_to_the_next() {
    loom::model(|| {
        let page = Page::new();
        let other = {
            let page = page.clone();
            loom::thread::spawn(move || {
                page.word.lock();
                page.word.unlock(page.word.peek());
            })
        };
        page.word.lock();
        page.migrate();
        other.join().unwrap();
        ended_at(&page, 1);
    });
}
