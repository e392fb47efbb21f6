//! What vCPUs share, and how they wait for each other: by spinning, as there are no interrupts.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Lets CPUs meet, again and again.
pub struct Barrier {
    arrived: AtomicUsize,
}

impl Barrier {
    /// A barrier that nobody has reached.
    pub const fn new() -> Self {
        Self {
            arrived: AtomicUsize::new(0),
        }
    }

    /// Returns when `cpus` CPUs are here. All of them give the same number, each time.
    pub fn wait(&self, cpus: usize) {
        let place = self.arrived.fetch_add(1, Ordering::AcqRel);
        let round_ends = (place / cpus + 1) * cpus;
        while self.arrived.load(Ordering::Acquire) < round_ends {
            spin_loop();
        }
    }
}

/// A value that one CPU sets once and all may read then.
pub struct Shared<T> {
    ready: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written before `ready` is set and only read after.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Not set.
    pub const fn new() -> Self {
        Self {
            ready: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Sets the value. Only one CPU may call this, once.
    pub fn set(&self, value: T) {
        assert!(!self.ready.load(Ordering::Acquire), "set twice");
        // SAFETY: one CPU calls this, once, and readers wait for `ready`.
        unsafe { (*self.value.get()).write(value) };
        self.ready.store(true, Ordering::Release);
    }

    /// The value, once it is set.
    pub fn wait(&self) -> &T {
        while !self.ready.load(Ordering::Acquire) {
            spin_loop();
        }
        // SAFETY: `ready` says that it was written, and nobody writes it again.
        unsafe { (*self.value.get()).assume_init_ref() }
    }
}

/// A value behind a spin lock.
pub struct Lock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` gives the value to one CPU at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self {
            taken: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Runs `action` on the value while no other CPU has it.
    pub fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R {
        while self.taken.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        // SAFETY: `taken` was free and is ours now.
        let result = action(unsafe { &mut *self.value.get() });
        self.taken.store(false, Ordering::Release);
        result
    }
}
