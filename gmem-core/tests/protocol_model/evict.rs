//! Steps that take pages away from the guest, and on to the tiers.

use super::protocol::{Fault, Protocol};
use super::state::*;
use super::steps::{Luck, back, fatal, give_up};

impl Protocol {
    pub fn expel_step(&self, state: &mut State, number: usize, step: Step, luck: Luck) {
        let next = match step {
            Step::Unmap { page, slot } => match luck {
                Luck::Fails => return fatal(state, number, step),
                Luck::Busy => {
                    state.gave_up(page, Place::Mapped);
                    state.empty_slot(slot);
                    state.unlock(page);
                    return back(state, number);
                }
                Luck::Good => {
                    state.unmap(page, slot);
                    match self.fault {
                        Some(Fault::UnmapUnacknowledged) => Step::CommitStaged { page, slot },
                        _ => Step::Flush { page, slot },
                    }
                }
            },
            Step::Flush { page, slot } => {
                state.flush(page);
                Step::CommitStaged { page, slot }
            }
            Step::CommitStaged { page, slot } => {
                state.commit(page, Place::Staged(slot));
                Step::Queue { page }
            }
            Step::Queue { page } => {
                // A page that came back has a stale place in the queue, which serves again.
                if !state.queue.contains(&page) {
                    state.queue.push(page);
                }
                return back(state, number);
            }
            _ => return,
        };
        state.threads[number].step = next;
    }

    /// Takes the group that was staged first and is still.
    pub fn pass_on(&self, state: &mut State, number: usize) {
        let mut locked = Vec::new();
        let mut found = None;
        while found.is_none() && !state.queue.is_empty() {
            let page = state.queue.remove(0);
            match state.entries[page] {
                Entry { locked: true, .. } => locked.push(page),
                Entry {
                    place: Place::Staged(slot),
                    ..
                } => found = Some((page, slot)),
                _ => {}
            }
        }
        // Whoever holds a lock may let the page go where it is: it is looked at again later.
        if self.fault != Some(Fault::ForgetLocked) {
            locked.retain(|page| !state.queue.contains(page));
            state.queue.append(&mut locked);
        }
        match found {
            Some((page, slot)) => {
                state.entries[page].locked = true;
                state.threads[number].step = Step::Store {
                    page,
                    slot,
                    tier: 0,
                };
            }
            None => back(state, number),
        }
    }

    pub fn store_step(&self, state: &mut State, number: usize, step: Step, luck: Luck) {
        let next = match step {
            Step::Store { page, slot, tier } => {
                let at = match state.slots[slot].frame {
                    Some(_) => Place::Staged(slot),
                    None => Place::Mapped,
                };
                let value = state.bytes_at(page, at).unwrap_or(GARBAGE);
                let stored = match luck {
                    _ if value == 0 => Some(Place::Untouched),
                    Luck::Good => state.store(tier, self.tiers[tier], value),
                    _ => None,
                };
                match stored {
                    Some(to) => Step::CommitStored { page, slot, to },
                    None if tier + 1 < TIERS => Step::Store {
                        page,
                        slot,
                        tier: tier + 1,
                    },
                    None => {
                        if at == Place::Mapped {
                            state.empty_slot(slot);
                        } else {
                            state.queue.insert(0, page);
                        }
                        state.gave_up(page, at);
                        state.unlock(page);
                        return give_up(state, number);
                    }
                }
            }
            Step::CommitStored { page, slot, to } => {
                if state.slots[slot].frame.is_none() {
                    state.unmap(page, slot);
                    state.flush(page);
                }
                state.commit(page, to);
                Step::FreeSlot { slot }
            }
            Step::FreeSlot { slot } => {
                state.free_slot(slot, false);
                return back(state, number);
            }
            Step::DemoteLoad { .. } if luck != Luck::Good => return fatal(state, number, step),
            Step::DemoteLoad { page, from } => {
                let value = state.bytes_at(page, from).unwrap_or(GARBAGE);
                Step::DemoteStore { page, from, value }
            }
            Step::DemoteStore { page, from, value } => {
                let stored = match luck {
                    Luck::Good => state.store(1, self.tiers[1], value),
                    _ => None,
                };
                match stored {
                    Some(to) => Step::DemoteCommit { page, from, to },
                    None => {
                        state.gave_up(page, from);
                        state.unlock(page);
                        Step::Idle
                    }
                }
            }
            Step::DemoteCommit { page, from, to } => {
                state.commit(page, to);
                Step::DemoteFree { from }
            }
            Step::DemoteFree { from } => {
                state.free_in_tier(from);
                Step::Idle
            }
            _ => return,
        };
        state.threads[number].step = next;
    }
}
