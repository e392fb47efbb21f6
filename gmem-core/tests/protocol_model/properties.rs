//! What must hold in every state, and what must happen in some.

use super::protocol::Protocol;
use super::state::*;
use stateright::Property;

pub const NO_STALE_ACCESS: &str = "an access sees the last write";
pub const FAILURE_CHANGES_NOTHING: &str = "a failed migration leaves its page as it was";
pub const MMU_AGREES: &str = "the MMU never contradicts the table";
pub const FREED_ONCE: &str = "what is freed was in use";
pub const BYTES: &str =
    "a page that nobody moves is where its entry says, with its bytes, and nowhere else";
pub const ONE_OWNER: &str = "each frame, slot and tier frame has one owner";
pub const BUDGET: &str = "frames exist within the budget";
pub const NOT_FORGOTTEN: &str = "somebody takes care of each accessor that waits";
pub const STAGED_QUEUED: &str = "each staged page will be passed on";

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(NO_STALE_ACCESS, |_, state: &State| {
            state.wrong != Some(Wrong::StaleAccess)
        }),
        Property::always(FAILURE_CHANGES_NOTHING, |_, state: &State| {
            state.wrong != Some(Wrong::FailureChangedPage)
        }),
        Property::always(MMU_AGREES, |_, state: &State| {
            state.wrong != Some(Wrong::MmuContradictsTable)
        }),
        Property::always(FREED_ONCE, |_, state: &State| {
            state.wrong != Some(Wrong::FreedTwice)
        }),
        Property::always(BYTES, |_, state: &State| {
            (0..PAGES).all(|page| in_place(state, page))
        }),
        Property::always(ONE_OWNER, |_, state: &State| {
            frames_have_one_owner(state)
                && slots_have_one_owner(state)
                && tiers_have_one_owner(state)
        }),
        Property::always(BUDGET, |_, state: &State| state.existing() <= state.limit),
        Property::always(NOT_FORGOTTEN, |_, state: &State| {
            state.fatal || (0..ACCESSORS).all(|number| is_cared_for(state, number))
        }),
        Property::always(STAGED_QUEUED, |_, state: &State| {
            state.fatal || (0..PAGES).all(|page| will_be_passed_on(state, page))
        }),
        Property::sometimes("all accesses end", |_, state: &State| state.finished()),
        Property::sometimes("a page is staged", |_, state: &State| state.staged() > 0),
        Property::sometimes("a page is rescued", |_, state: &State| {
            let rescued = |thread: &Thread| {
                matches!(
                    thread.step,
                    Step::FreeSource(Incoming {
                        before: Place::Staged(_),
                        ..
                    })
                )
            };
            state.threads.iter().any(rescued)
        }),
        Property::sometimes(
            "a page comes back from the last tier",
            |_, state: &State| {
                let back = |thread: &Thread| {
                    matches!(
                        thread.step,
                        Step::FreeSource(Incoming {
                            before: Place::Tier(1, _),
                            ..
                        })
                    )
                };
                state.threads.iter().any(back)
            },
        ),
    ]
}

fn in_place(state: &State, page: usize) -> bool {
    let Entry { place, locked } = state.entries[page];
    if locked {
        return true;
    }
    let cached = |accessor: &Accessor| accessor.tlb[page].is_some();
    let beneath = state.guest[page].is_some();
    let at_its_place = match place {
        Place::Mapped => beneath,
        _ => !beneath && !state.accessors.iter().any(cached),
    };
    at_its_place && state.bytes_at(page, place) == Some(state.written[page])
}

fn frames_have_one_owner(state: &State) -> bool {
    (0..FRAMES).all(|frame| {
        let beneath = state.guest.iter().filter(|at| **at == Some(frame)).count();
        let in_slots = state
            .slots
            .iter()
            .filter(|slot| slot.frame == Some(frame))
            .count();
        beneath + in_slots == usize::from(state.memory[frame].is_some())
    })
}

/// The slot that a thread holds.
fn slot_of(thread: &Thread) -> Option<usize> {
    match thread.step {
        Step::Load(incoming)
        | Step::Map(incoming)
        | Step::Wake(incoming)
        | Step::Commit(incoming)
        | Step::FreeSource(incoming) => Some(incoming.slot),
        Step::Unmap { slot, .. }
        | Step::Flush { slot, .. }
        | Step::CommitStaged { slot, .. }
        | Step::Store { slot, .. }
        | Step::CommitStored { slot, .. }
        | Step::FreeSlot { slot }
        | Step::GiveUnmap { slot, .. }
        | Step::GiveFlush {
            from: Place::Staged(slot),
            ..
        }
        | Step::GiveCommit {
            from: Place::Staged(slot),
            ..
        }
        | Step::GiveFree {
            from: Place::Staged(slot),
        } => Some(slot),
        _ => None,
    }
}

fn slots_have_one_owner(state: &State) -> bool {
    state.slots.iter().enumerate().all(|(number, slot)| {
        let held = state
            .threads
            .iter()
            .filter(|thread| slot_of(thread) == Some(number));
        let held = held.count();
        let named = |entry: &&Entry| entry.place == Place::Staged(number);
        let by_entries: Vec<_> = state.entries.iter().filter(named).collect();
        match slot.owner {
            Owner::Empty => slot.frame.is_none() && held + by_entries.len() == 0,
            Owner::Full => slot.frame.is_some() && held + by_entries.len() == 0,
            Owner::Taken if held == 1 => match by_entries[..] {
                [] => true,
                [entry] => entry.locked,
                _ => false,
            },
            Owner::Taken => held == 0 && by_entries.len() == 1 && slot.frame.is_some(),
        }
    })
}

fn tiers_have_one_owner(state: &State) -> bool {
    (0..TIERS).all(|tier| {
        (0..TIER_FRAMES).all(|frame| {
            let place = Place::Tier(tier, frame);
            let named = state.entries.iter().filter(|entry| entry.place == place);
            let held = state.threads.iter().filter(|thread| match thread.step {
                Step::FreeSource(incoming) => incoming.before == place,
                Step::CommitStored { to, .. } | Step::DemoteCommit { to, .. } => to == place,
                Step::DemoteFree { from } | Step::GiveFree { from } => from == place,
                _ => false,
            });
            named.count() + held.count() == usize::from(state.tiers[tier][frame].is_some())
        })
    })
}

/// Whether a thread is about to bring this page in or to put its fault aside.
fn works_for(thread: &Thread, page: usize) -> bool {
    let holds = |bring: Bring| bring.touched == page && bring.held & 1 << page != 0;
    thread.bring.is_some_and(holds)
        || match thread.step {
            Step::Lock { page: own, .. } | Step::PutAside { page: own } => own == page,
            Step::Load(incoming) | Step::Map(incoming) | Step::Wake(incoming) => {
                incoming.page == page
            }
            _ => false,
        }
}

fn is_cared_for(state: &State, number: usize) -> bool {
    match state.accessors[number].vcpu {
        Vcpu::Waits(Access { page, .. }) => {
            let beneath_soon = state.threads.iter().any(|thread| works_for(thread, page));
            state.waiting & 1 << page != 0 || beneath_soon
        }
        // Its handler reads the event, for it has nothing else to do for ever.
        Vcpu::Faulted(_) | Vcpu::Woken(_) | Vcpu::Runs => true,
    }
}

fn will_be_passed_on(state: &State, page: usize) -> bool {
    let Entry {
        place: Place::Staged(_),
        locked: false,
    } = state.entries[page]
    else {
        return true;
    };
    let queues = |thread: &Thread| thread.step == Step::Queue { page };
    state.queue.contains(&page) || state.threads.iter().any(queues)
}
