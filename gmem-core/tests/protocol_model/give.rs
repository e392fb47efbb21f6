//! Steps of a device's thread that gives pages back.

use super::protocol::{Fault, Protocol};
use super::state::*;
use super::steps::{Luck, fatal};

impl Protocol {
    pub fn give_step(&self, state: &mut State, number: usize, step: Step, luck: Luck) {
        let next = match step {
            Step::GiveLock { page } => match look(state, page) {
                Some(next) => {
                    state.entries[page].locked = true;
                    next
                }
                None => step,
            },
            Step::GiveUnmap { page, slot } => match luck {
                Luck::Fails => return fatal(state, number, step),
                Luck::Busy => {
                    state.gave_up(page, Place::Mapped);
                    state.empty_slot(slot);
                    state.unlock(page);
                    Step::GiveLock { page }
                }
                Luck::Good => {
                    state.unmap(page, slot);
                    let from = Place::Staged(slot);
                    match self.fault {
                        Some(Fault::GiveUnacknowledged) => Step::GiveCommit { page, from },
                        _ => Step::GiveFlush { page, from },
                    }
                }
            },
            Step::GiveFlush { page, from } => {
                state.flush(page);
                Step::GiveCommit { page, from }
            }
            Step::GiveCommit { page, from } => {
                state.commit(page, Place::Untouched);
                state.written[page] = 0;
                Step::GiveFree { from }
            }
            Step::GiveFree { from } => {
                match from {
                    Place::Staged(slot) => state.free_slot(slot, false),
                    _ => state.free_in_tier(from),
                }
                Step::Idle
            }
            _ => return,
        };
        state.threads[number].step = next;
    }
}

/// What is to be done to a page whose lock was free; nothing yet if there is no slot for it.
fn look(state: &mut State, page: usize) -> Option<Step> {
    match state.entries[page].place {
        Place::Mapped => {
            let slot = state.take_empty()?;
            Some(Step::GiveUnmap { page, slot })
        }
        from => Some(Step::GiveCommit { page, from }),
    }
}
