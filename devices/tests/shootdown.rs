//! Every interleaving of an accelerator's units and the invalidation of what they use, by loom.

use std::sync::atomic::Ordering;

use gmem_core::page::{PageNo, PageRange};
use gmem_core::table::lock::Atomic;
use gmem_devices::accel::mmu::{Access, Fence, Rights, Shootdown, Target, Tlb, Translation, Unit};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;

#[derive(Debug)]
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

impl Fence for Loomed {
    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

const PAGE: PageRange = PageRange::new(PageNo(7), 1);
const MAPPED: u64 = 1;

/// One page: the entry that maps it, and its frame, for each unit a part that only it writes. Loom reports a data
/// race on the frame if a unit's access is not ordered before what the invalidator does to it, or comes after that.
struct Device {
    entry: AtomicU64,
    frame: Vec<UnsafeCell<u64>>,
}

// SAFETY: the frame is reached by its unit while it is mapped and by the invalidator when it is not; that this
// excludes is what loom checks.
unsafe impl Sync for Device {}
// SAFETY: nothing in it is bound to a thread.
unsafe impl Send for Device {}

impl Device {
    fn new(
        units: usize,
    ) -> (
        Arc<Self>,
        std::sync::Arc<Shootdown<Loomed>>,
        Vec<Unit<Loomed>>,
    ) {
        let device = Arc::new(Self {
            entry: AtomicU64::new(MAPPED),
            frame: (0..units).map(|_| UnsafeCell::new(0)).collect(),
        });
        let (shootdown, units) = Shootdown::new((0..units).map(|_| Tlb::new(1, 1, [1])));
        (device, shootdown, units)
    }

    /// One chunk of work: translate, write if that went well, leave.
    fn chunk(&self, unit: &mut Unit<Loomed>, index: usize) {
        let mut inside = unit.enter();
        let mut found = inside.tlb().lookup(PAGE.start, Access::Write);
        // Acquire, as the walk's: for what happened to the frame before it was mapped. That it is not mapped any
        // more must come from the shootdown.
        if found.is_none() && self.entry.load(Ordering::Acquire) == MAPPED {
            let walked = Translation {
                range: PAGE,
                target: Target::local(0),
                rights: Rights::Write,
                dirty: true,
            };
            inside.tlb().insert(walked);
            found = Some(walked);
        }
        if found.is_some() {
            self.frame[index].with_mut(|bytes| {
                // SAFETY: a translation is held, inside.
                unsafe { *bytes += 1 }
            });
        }
    }

    fn take_away(&self, shootdown: &Shootdown<Loomed>) {
        self.entry.store(0, Ordering::Relaxed);
        shootdown.invalidate(&[PAGE]);
        for part in &self.frame {
            part.with_mut(|bytes| {
                // SAFETY: the invalidation has returned.
                unsafe { *bytes = 0 }
            });
        }
    }
}

#[test]
fn no_unit_uses_an_old_translation_when_the_invalidation_has_returned() {
    loom::model(|| {
        let (device, shootdown, mut units) = Device::new(1);
        let mut unit = units.remove(0);
        let worker = {
            let device = device.clone();
            loom::thread::spawn(move || {
                device.chunk(&mut unit, 0);
                device.chunk(&mut unit, 0);
            })
        };
        device.take_away(&shootdown);
        worker.join().unwrap();
    });
}

#[test]
fn a_unit_that_was_idle_drops_what_it_missed_before_it_uses_its_tlb() {
    loom::model(|| {
        let (device, shootdown, mut units) = Device::new(1);
        let mut unit = units.remove(0);
        device.chunk(&mut unit, 0);
        let worker = {
            let device = device.clone();
            loom::thread::spawn(move || device.chunk(&mut unit, 0))
        };
        device.take_away(&shootdown);
        worker.join().unwrap();
    });
}

#[test]
fn two_units_acknowledge_each_for_itself() {
    // Three threads have too many interleavings: those in which each is interrupted a few times.
    let mut some = loom::model::Builder::new();
    some.preemption_bound = Some(2);
    some.check(|| {
        let (device, shootdown, units) = Device::new(2);
        let workers: Vec<_> = units
            .into_iter()
            .enumerate()
            .map(|(index, mut unit)| {
                let device = device.clone();
                loom::thread::spawn(move || device.chunk(&mut unit, index))
            })
            .collect();
        device.take_away(&shootdown);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn a_second_invalidation_is_as_good_as_the_first() {
    let mut some = loom::model::Builder::new();
    some.preemption_bound = Some(2);
    some.check(|| {
        let (device, shootdown, mut units) = Device::new(1);
        let mut unit = units.remove(0);
        device.chunk(&mut unit, 0);
        let worker = {
            let device = device.clone();
            loom::thread::spawn(move || {
                device.chunk(&mut unit, 0);
                device.chunk(&mut unit, 0);
            })
        };
        device.take_away(&shootdown);
        device.entry.store(MAPPED, Ordering::Release);
        device.take_away(&shootdown);
        worker.join().unwrap();
    });
}

#[test]
fn what_a_unit_has_found_stays_for_as_long_as_it_is_held() {
    loom::model(|| {
        let (device, shootdown, mut units) = Device::new(1);
        let mut unit = units.remove(0);
        let worker = {
            let device = device.clone();
            loom::thread::spawn(move || {
                unit.hold();
                device.chunk(&mut unit, 0);
                let found = unit.enter().tlb().lookup(PAGE.start, Access::Write);
                device.chunk(&mut unit, 0);
                if found.is_some() {
                    // SAFETY: a translation is held.
                    let written = device.frame[0].with(|bytes| unsafe { *bytes });
                    assert_eq!(written, 2, "taken away from a unit that was held");
                }
                unit.release();
            })
        };
        device.take_away(&shootdown);
        worker.join().unwrap();
    });
}
