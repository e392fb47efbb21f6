//! Whether from every state the end can be reached.
//!
//! The background thread may go round for ever, so the graph has cycles, and a search for states with no
//! way on would find too little. This looks at the whole graph: a state from which no path leads to the
//! end is a deadlock, a livelock or an accessor that waits for ever. With none, every fair run ends.

use stateright::Model;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

/// What a search of the whole graph found.
pub struct Search<S> {
    pub states: usize,
    /// A state from which the end is out of reach.
    pub stuck: Option<S>,
}

/// Searches all states of `model` for one from which none that is `finished` can be reached, other than
/// those that are `exempt`.
pub fn search<M: Model>(
    model: &M,
    finished: impl Fn(&M::State) -> bool,
    exempt: impl Fn(&M::State) -> bool,
) -> Search<M::State>
where
    M::State: Hash + Clone,
{
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut ends = Vec::new();
    let mut pending = Vec::new();
    for state in model.init_states() {
        numbers.insert(fingerprint(&state), numbers.len() as u32);
        pending.push(state);
    }
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        let from = numbers[&fingerprint(&state)];
        if finished(&state) {
            ends.push(from);
        }
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = model.next_state(&state, action) else {
                continue;
            };
            let known = numbers.len() as u32;
            let to = match numbers.entry(fingerprint(&next)) {
                Entry::Occupied(number) => *number.get(),
                Entry::Vacant(place) => {
                    pending.push(next);
                    *place.insert(known)
                }
            };
            edges.push((from, to));
        }
    }
    let states = numbers.len();
    let reaches = backwards(states, edges, ends);
    let stuck = find(model, |state| {
        !exempt(state) && !reaches[numbers[&fingerprint(state)] as usize]
    });
    Search { states, stuck }
}

/// Which states have a path to one of `ends`.
fn backwards(states: usize, mut edges: Vec<(u32, u32)>, ends: Vec<u32>) -> Vec<bool> {
    edges.sort_unstable_by_key(|(_, to)| *to);
    let mut reaches = vec![false; states];
    let mut pending = ends;
    while let Some(state) = pending.pop() {
        if std::mem::replace(&mut reaches[state as usize], true) {
            continue;
        }
        let first = edges.partition_point(|(_, to)| *to < state);
        let into = edges[first..].iter().take_while(|(_, to)| *to == state);
        pending.extend(
            into.map(|(from, _)| *from)
                .filter(|from| !reaches[*from as usize]),
        );
    }
    reaches
}

/// A reachable state that is `wanted`, if there is one: states are not kept, so they are made again.
fn find<M: Model>(model: &M, wanted: impl Fn(&M::State) -> bool) -> Option<M::State>
where
    M::State: Hash + Clone,
{
    let mut seen = std::collections::HashSet::new();
    let mut pending = model.init_states();
    let mut actions = Vec::new();
    while let Some(state) = pending.pop() {
        if wanted(&state) {
            return Some(state);
        }
        model.actions(&state, &mut actions);
        let next = actions
            .drain(..)
            .filter_map(|action| model.next_state(&state, action));
        pending.extend(next.filter(|next| seen.insert(fingerprint(next))));
    }
    None
}

fn fingerprint<S: Hash>(state: &S) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
