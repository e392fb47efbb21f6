//! Pages shared by a vCPU and two accelerators, model-checked: see README.md beside this file.

#[path = "../protocol_model/liveness.rs"]
mod liveness;
mod plan;
mod protocol;
mod state;

use plan::Fault;
use protocol::Protocol;
use state::State;
use stateright::{Checker, HasDiscoveries, Model};

/// Everybody has a little to do.
fn small() -> Protocol {
    Protocol {
        fault: None,
        vcpu: 1,
        devices: [1, 1],
        chores: 1,
        failures: 1,
        touched: 1,
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
        "{what}: {states} states are too few, expected {least}"
    );
}

/// The checker finds what is wrong with a broken protocol.
fn is_found(fault: Fault, model: Protocol) {
    let model = Protocol {
        fault: Some(fault),
        ..model
    };
    let searched = model
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures);
    let checker = searched.spawn_bfs().join();
    let must = [
        "nothing goes wrong",
        "a page at rest has its bytes",
        "copies are what they are copies of",
        "a frame has one page",
    ];
    let found = must
        .iter()
        .find_map(|must| Some((must, checker.discovery(must)?)));
    let (must, path) = found.unwrap_or_else(|| panic!("{fault:?} breaks nothing"));
    println!(
        "{fault:?}: not so that {must}, after {} steps",
        path.into_actions().len()
    );
}

#[test]
fn a_page_shared_by_three_is_never_lost_nor_read_stale() {
    holds("one page", small(), 90_000);
}

#[test]
fn neither_is_it_while_the_background_moves_it_and_everybody_comes_back() {
    let model = Protocol {
        vcpu: 2,
        devices: [2, 1],
        chores: 2,
        failures: 0,
        ..small()
    };
    holds("one page, more of everything", model, 400_000);
}

#[test]
fn two_pages_that_want_one_frame_of_each_accelerator_make_room_for_each_other() {
    let model = Protocol {
        devices: [2, 1],
        vcpu: 0,
        chores: 0,
        touched: 2,
        ..small()
    };
    holds("two pages", model, 2_000_000);
}

#[test]
fn everybody_comes_to_an_end_from_everywhere() {
    let two_pages = Protocol {
        touched: 2,
        failures: 0,
        chores: 0,
        ..small()
    };
    for (model, least) in [(small(), 90_000), (two_pages, 2_000_000)] {
        let search = liveness::search(&model, State::finished, |_| false);
        println!("{} states, each with a way to the end", search.states);
        assert_eq!(search.stuck, None, "no way to the end from here");
        assert!(
            search.states >= least,
            "{} states are too few",
            search.states
        );
    }
}

#[test]
fn a_protocol_with_a_step_left_out_or_misplaced_is_found_out() {
    let two = Protocol {
        devices: [2, 2],
        chores: 0,
        failures: 0,
        ..small()
    };
    for fault in [
        Fault::NoAcknowledgement,
        Fault::NoWithdrawal,
        Fault::LeaveFirst,
        Fault::CopyFirst,
        Fault::KeepCopy,
        Fault::WriteBesideCopies,
        Fault::BringBesideCopies,
        Fault::CopyBesideRemote,
        Fault::CommitFirst,
        Fault::FreeBeside,
    ] {
        let model = match fault {
            Fault::CommitFirst => Protocol { failures: 1, ..two },
            Fault::LeaveFirst | Fault::FreeBeside | Fault::BringBesideCopies => {
                Protocol { chores: 1, ..two }
            }
            _ => Protocol { vcpu: 2, ..two },
        };
        is_found(fault, model);
    }
}
