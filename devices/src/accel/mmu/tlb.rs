//! An execution unit's cache of translations.

use gmem_core::page::{PageNo, PageRange};

use super::{Access, Translation};

/// What a TLB did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups that found a translation.
    pub hits: u64,
    /// Lookups that found none that allows the access.
    pub misses: u64,
    /// Translations dropped because they, or everything, were invalidated.
    pub invalidations: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    translation: Translation,
    /// When it was used last, in lookups and insertions.
    used: u64,
}

/// A set-associative TLB for one address space. A page's number in its size says in which set it is; the least recently
/// used way is replaced.
#[derive(Debug)]
pub struct Tlb {
    ways: usize,
    slots: Box<[Option<Slot>]>,
    /// Page sizes, logical pages each.
    sizes: Box<[u64]>,
    now: u64,
    counters: Counters,
}

impl Tlb {
    /// An empty TLB of `sets` times `ways` (at least one each) for pages of `sizes` logical pages.
    pub fn new(sets: usize, ways: usize, sizes: impl IntoIterator<Item = u64>) -> Self {
        let ways = ways.max(1);
        Self {
            ways,
            slots: vec![None; sets.max(1) * ways].into(),
            sizes: sizes.into_iter().map(|size| size.max(1)).collect(),
            now: 0,
            counters: Counters::default(),
        }
    }

    /// The translation of `page`, if it is here and allows `access` without a walk.
    pub fn lookup(&mut self, page: PageNo, access: Access) -> Option<Translation> {
        self.now += 1;
        let now = self.now;
        for index in 0..self.sizes.len() {
            let set = self.set(page, self.sizes[index]);
            let slot = set.iter_mut().flatten().find(|slot| {
                let it = &slot.translation;
                let noted = it.dirty || !access.writes();
                it.range.contains(page) && it.rights >= access.needs() && noted
            });
            if let Some(slot) = slot {
                slot.used = now;
                let found = slot.translation;
                self.counters.hits += 1;
                return Some(found);
            }
        }
        self.counters.misses += 1;
        None
    }

    /// Keeps what a walk found, in place of what it knew of these pages.
    pub fn insert(&mut self, translation: Translation) {
        self.now += 1;
        let used = self.now;
        let range = translation.range;
        let set = self.set(range.start, range.pages);
        let same = |slot: &Slot| slot.translation.range == range;
        let way = set.iter().position(|slot| slot.as_ref().is_some_and(same));
        let oldest = || {
            let ages = set.iter().enumerate();
            ages.min_by_key(|(_, slot)| slot.map_or(0, |slot| slot.used))
                .map_or(0, |(way, _)| way)
        };
        let way = way.unwrap_or_else(oldest);
        set[way] = Some(Slot { translation, used });
    }

    /// Drops every translation of which a page is in `range`. Each slot is looked at: there are few.
    pub fn invalidate(&mut self, range: PageRange) {
        self.drop_if(|it| it.start < range.end() && range.start < it.end());
    }

    /// Drops everything. Also for changing to another address space.
    pub fn flush(&mut self) {
        self.drop_if(|_| true);
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn drop_if(&mut self, stale: impl Fn(PageRange) -> bool) {
        for slot in &mut self.slots {
            if slot.is_some_and(|slot| stale(slot.translation.range)) {
                *slot = None;
                self.counters.invalidations += 1;
            }
        }
    }

    fn set(&mut self, page: PageNo, size: u64) -> &mut [Option<Slot>] {
        let sets = (self.slots.len() / self.ways) as u64;
        let set = (page.0 / size.max(1) % sets) as usize;
        &mut self.slots[set * self.ways..][..self.ways]
    }
}
