//! The migration protocol, model-checked: two accessors with a fault handler each, a background thread,
//! a device's thread, two pages, an arena within a budget, two tiers, and a failure at any step.
//!
//! The model takes the engine's steps, one action for each that others can see: a fault locks its page's
//! entry and waits for that, everybody else only tries; eviction moves a page into an empty slot, waits
//! for the accessors' acknowledgement, commits, and queues; passing on stores in the first tier that takes
//! it, commits, and frees the slot; a fault takes a frame or makes room, loads, maps, wakes, commits, and
//! frees the source; a staged page comes back with its own frame; a fault that finds everything full is
//! put aside and tried again. A device's thread gives pages back: it waits for the page's lock, takes the
//! page out of the guest's reach, commits that it is nowhere, and frees where it was. The policy's choices
//! are left to chance, so any policy is covered. A load or a move that fails ends the microVM, as in the
//! engine: what the other threads have begun they end, and every page must still be whole.
//!
//! | file | has |
//! |---|---|
//! | `state` | what there is |
//! | `parts` | arena, tiers, locks, guest |
//! | `protocol` | who may do what next |
//! | `steps`, `evict`, `give` | what that does |
//! | `reduce` | which states are the same, which steps are one |
//! | `properties` | what must hold in every state |
//! | `liveness` | what must be reachable from every state |

mod evict;
mod give;
mod liveness;
mod parts;
mod properties;
mod protocol;
mod reduce;
mod state;
mod steps;

use properties as must;
use protocol::{Fault, Protocol};
use state::{State, Vcpu};
use stateright::{Checker, HasDiscoveries, Model};

/// One frame for two pages, so that every second access makes room.
fn tight() -> Protocol {
    Protocol {
        fault: None,
        budget: 1,
        budgets: Vec::new(),
        tiers: [1, 1],
        accesses: [1, 1],
        failures: 0,
        gives: 0,
        along: false,
        touched: state::PAGES,
    }
}

/// Searches all states; every property must hold, and there must be at least so many states.
fn holds(what: &str, model: Protocol, least: usize) {
    let searched = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = searched.spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{what}: {states} states, {depth} steps deep");
    checker.assert_properties();
    assert!(
        states >= least,
        "{what}: {states} states are too few to be the protocol, expected {least}"
    );
}

/// From every state the accessors' end can be reached, unless a failure has ended the microVM.
fn ends(what: &str, model: Protocol, least: usize) {
    let search = liveness::search(&model, State::finished, |state| state.fatal);
    println!(
        "{what}: {} states, each with a way to the end",
        search.states
    );
    assert_eq!(search.stuck, None, "{what}: no way to the end from here");
    assert!(
        search.states >= least,
        "{what}: {} states are too few",
        search.states
    );
}

/// The checker finds what is wrong with a broken protocol.
fn is_found(model: Protocol, property: &'static str) {
    let fault = model.fault;
    let searched = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyOf([property].into()));
    let checker = searched.spawn_bfs().join();
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{fault:?} breaks nothing: \"{property}\" holds"));
    println!(
        "{fault:?}: not so that {property}, after {} steps:",
        path.clone().into_actions().len()
    );
    for action in path.into_actions() {
        println!("    {action:?}");
    }
}

fn broken(fault: Fault) -> Protocol {
    Protocol {
        fault: Some(fault),
        ..tight()
    }
}

/// One accessor that has more to do, with the background thread: an access after an eviction is not the
/// last one.
fn longer(accesses: u8) -> Protocol {
    Protocol {
        accesses: [accesses, 0],
        ..tight()
    }
}

/// One frame, then two, so that pages come along, and one again, so that they do not.
fn changing() -> Protocol {
    Protocol {
        budgets: vec![2, 1],
        along: true,
        ..longer(2)
    }
}

#[test]
fn the_protocol_is_sound_when_any_step_may_fail() {
    holds(
        "one frame, a failure",
        Protocol {
            failures: 1,
            ..tight()
        },
        500_000,
    );
    holds(
        "three accesses, two failures",
        Protocol {
            failures: 2,
            ..longer(3)
        },
        50_000,
    );
}

#[test]
fn the_protocol_is_sound_when_pages_come_along() {
    let two = Protocol {
        budget: 2,
        along: true,
        ..tight()
    };
    holds("two frames, pages come along", two, 400_000);
    let one = Protocol {
        along: true,
        failures: 1,
        ..longer(3)
    };
    holds("three accesses, pages come along, a failure", one, 50_000);
}

#[test]
fn the_protocol_is_sound_when_accessors_come_back_to_a_page() {
    let model = Protocol {
        accesses: [2, 2],
        touched: 1,
        ..tight()
    };
    holds("two accesses each to one page", model, 20_000);
}

#[test]
fn the_protocol_is_sound_when_the_budget_shrinks_and_grows() {
    let model = Protocol {
        budget: 2,
        budgets: vec![1],
        ..tight()
    };
    holds("two frames, then one", model, 300_000);
    holds("one frame, then two, then one", changing(), 20_000);
}

#[test]
fn the_protocol_is_sound_when_pages_are_given_back() {
    let one_page = Protocol {
        touched: 1,
        ..given_back(1, tight())
    };
    holds("two accessors", one_page, 400_000);
    let twice = given_back(2, longer(3));
    holds("three accesses, two pages given back", twice, 500_000);
    let model = Protocol {
        failures: 1,
        ..given_back(1, longer(2))
    };
    holds("two accesses, a failure", model.clone(), 100_000);
    ends("two accesses, a failure", model, 100_000);
    ends("three accesses", given_back(1, longer(3)), 200_000);
}

fn given_back(gives: u8, model: Protocol) -> Protocol {
    Protocol { gives, ..model }
}

#[test]
fn a_page_that_is_free_before_its_accessors_know_is_found() {
    let model = Protocol {
        accesses: [2, 2],
        touched: 1,
        ..given_back(1, broken(Fault::GiveUnacknowledged))
    };
    is_found(model.clone(), must::NO_STALE_ACCESS);
    is_found(model, must::BYTES);
}

#[test]
fn a_page_that_is_given_back_without_its_lock_is_found() {
    let model = given_back(1, broken(Fault::GiveUnlocked));
    is_found(model.clone(), must::MMU_AGREES);
    is_found(model, must::ONE_OWNER);
}

#[test]
fn every_accessor_is_served() {
    ends("one frame", tight(), 200_000);
    ends("three accesses", longer(3), 20_000);
    ends(
        "a failed store, a busy page",
        Protocol {
            failures: 2,
            ..longer(2)
        },
        20_000,
    );
    ends("one frame, then two, then one", changing(), 20_000);
}

/// Memory is as large as host and tiers together, with no frame to spare.
fn without_reserve() -> Protocol {
    Protocol {
        tiers: [1, 0],
        ..longer(3)
    }
}

#[test]
fn without_a_reserve_full_tiers_cannot_exchange_pages() {
    let search = liveness::search(&without_reserve(), State::finished, |state| state.fatal);
    let stuck = search
        .stuck
        .expect("two pages in two frames leave no room to turn");
    let asleep = |accessor: &state::Accessor| accessor.vcpu != Vcpu::Runs;
    assert!(stuck.accessors.iter().any(asleep), "{stuck:?}");
}

#[test]
fn who_waits_in_a_full_machine_is_served_when_the_budget_grows() {
    let model = Protocol {
        budgets: vec![2],
        ..without_reserve()
    };
    ends("full, then one more frame", model, 20_000);
}

#[test]
fn a_commit_before_the_map_is_found() {
    is_found(broken(Fault::CommitBeforeMap), must::BYTES);
}

#[test]
fn a_commit_before_the_map_is_found_when_the_map_fails() {
    let model = Protocol {
        failures: 1,
        ..broken(Fault::CommitBeforeMap)
    };
    is_found(model, must::FAILURE_CHANGES_NOTHING);
}

#[test]
fn a_source_freed_before_the_map_is_found_when_the_map_fails() {
    let model = Protocol {
        failures: 1,
        ..broken(Fault::FreeBeforeMap)
    };
    is_found(model, must::FAILURE_CHANGES_NOTHING);
}

#[test]
fn a_copy_of_a_page_that_the_guest_can_write_is_found() {
    is_found(broken(Fault::CopyBeforeUnmap), must::BYTES);
}

#[test]
fn a_lost_update_is_seen_by_an_access() {
    is_found(broken(Fault::CopyBeforeUnmap), must::NO_STALE_ACCESS);
}

#[test]
fn an_unmap_that_does_not_wait_for_the_acknowledgement_is_found() {
    let model = Protocol {
        accesses: [2, 2],
        touched: 1,
        ..broken(Fault::UnmapUnacknowledged)
    };
    is_found(model.clone(), must::BYTES);
    is_found(model, must::NO_STALE_ACCESS);
}

#[test]
fn a_wake_before_the_map_without_a_new_fault_is_found() {
    is_found(broken(Fault::WakeBeforeMap), must::NOT_FORGOTTEN);
}

#[test]
fn handlers_without_a_lock_are_found() {
    is_found(broken(Fault::NoLock), must::MMU_AGREES);
    is_found(broken(Fault::NoLock), must::ONE_OWNER);
}

#[test]
fn a_staged_page_that_leaves_the_queue_unserved_is_found() {
    let model = Protocol {
        fault: Some(Fault::ForgetLocked),
        ..changing()
    };
    is_found(model.clone(), must::STAGED_QUEUED);
    // It keeps the only frame for ever.
    let stuck = liveness::search(&model, State::finished, |state| state.fatal).stuck;
    assert!(
        stuck.is_some(),
        "whoever waits for its frame is served all the same"
    );
}

#[test]
fn a_fault_that_is_dropped_when_everything_is_full_is_found() {
    is_found(broken(Fault::ForgetWaiting), must::NOT_FORGOTTEN);
}
