//! The parts that the protocol uses: arena, tiers, locks, guest. Each does at once what its real
//! counterpart does under a lock of its own or in one system call's atomic step.

use super::state::{FRAMES, GARBAGE, Owner, Place, Slot, State, TIER_FRAMES, Vcpu, Wrong};

impl State {
    /// A free frame, or one that is created within the budget: its slot and whether it is fresh.
    pub fn take_frame(&mut self) -> Option<(usize, bool)> {
        if let Some(slot) = self.slot_of(Owner::Full) {
            self.slots[slot].owner = Owner::Taken;
            return Some((slot, false));
        }
        if self.existing() >= self.cap {
            return None;
        }
        let slot = self.take_empty()?;
        let frame = (0..FRAMES).find(|frame| self.memory[*frame].is_none())?;
        self.memory[frame] = Some(GARBAGE);
        self.slots[slot].frame = Some(frame);
        Some((slot, true))
    }

    pub fn take_empty(&mut self) -> Option<usize> {
        let slot = self.slot_of(Owner::Empty)?;
        self.slots[slot].owner = Owner::Taken;
        Some(slot)
    }

    fn slot_of(&self, owner: Owner) -> Option<usize> {
        self.slots.iter().position(|slot| slot.owner == owner)
    }

    /// Gives a slot with a frame back, to be used again unless there are too many frames.
    pub fn free_slot(&mut self, slot: usize, fresh: bool) {
        let Some(frame) = self.slots[slot].frame else {
            self.wrong = Some(Wrong::FreedTwice);
            return;
        };
        if fresh || self.existing() > self.cap {
            self.memory[frame] = None;
            self.limit = self.limit.min(self.existing().max(self.cap));
            self.slots[slot] = Slot {
                owner: Owner::Empty,
                frame: None,
            };
        } else {
            // Nobody may rely on what was in it.
            self.memory[frame] = Some(GARBAGE);
            self.slots[slot].owner = Owner::Full;
        }
    }

    pub fn empty_slot(&mut self, slot: usize) {
        self.slots[slot] = Slot {
            owner: Owner::Empty,
            frame: None,
        };
    }

    pub fn set_cap(&mut self, cap: usize) {
        self.cap = cap;
        self.limit = self.existing().max(cap);
        while self.existing() > cap
            && let Some(slot) = self.slot_of(Owner::Full)
        {
            self.free_slot(slot, true);
        }
    }

    /// Stores a value in a tier that holds `capacity` pages.
    pub fn store(&mut self, tier: usize, capacity: usize, value: u8) -> Option<Place> {
        let frame = (0..capacity.min(TIER_FRAMES)).find(|at| self.tiers[tier][*at].is_none())?;
        self.tiers[tier][frame] = Some(value);
        Some(Place::Tier(tier, frame))
    }

    /// Frees a tier's frame; of other places nothing.
    pub fn free_in_tier(&mut self, place: Place) {
        if let Place::Tier(tier, frame) = place
            && self.tiers[tier][frame].take().is_none()
        {
            self.wrong = Some(Wrong::FreedTwice);
        }
    }

    /// MOVE into the guest.
    pub fn map(&mut self, page: usize, slot: usize) {
        if self.guest[page].is_some() {
            self.wrong = Some(Wrong::MmuContradictsTable);
            return;
        }
        self.guest[page] = self.slots[slot].frame.take();
    }

    /// MOVE out of the guest, as far as page tables go: cached translations live on until `flush`.
    pub fn unmap(&mut self, page: usize, slot: usize) {
        if self.guest[page].is_none() {
            self.wrong = Some(Wrong::MmuContradictsTable);
        }
        self.slots[slot].frame = self.guest[page].take();
    }

    pub fn flush(&mut self, page: usize) {
        for accessor in &mut self.accessors {
            accessor.tlb[page] = None;
        }
    }

    pub fn wake(&mut self, page: usize) {
        for accessor in &mut self.accessors {
            if let Vcpu::Faulted(access) | Vcpu::Waits(access) = accessor.vcpu
                && access.page == page
            {
                accessor.vcpu = Vcpu::Woken(access);
            }
        }
    }

    pub fn try_lock(&mut self, page: usize, accept: impl Fn(Place) -> bool) -> bool {
        let entry = &mut self.entries[page];
        let taken = !entry.locked && accept(entry.place);
        entry.locked |= taken;
        taken
    }

    pub fn unlock(&mut self, page: usize) {
        self.entries[page].locked = false;
    }

    /// Lets the pages in a mask go, unchanged.
    pub fn unlock_all(&mut self, mask: u8) {
        for page in (0..self.entries.len()).filter(|page| mask & 1 << page != 0) {
            self.unlock(page);
        }
    }

    pub fn commit(&mut self, page: usize, place: Place) {
        self.entries[page].place = place;
        self.unlock(page);
    }

    /// A migration of `page` gave up: the page must be as it was at `before`.
    pub fn gave_up(&mut self, page: usize, before: Place) {
        let same = self.entries[page].place == before
            && self.bytes_at(page, before) == Some(self.written[page]);
        if !same {
            self.wrong = Some(Wrong::FailureChangedPage);
        }
    }
}
