//! Random histories of two clients, against a map.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// For how many pages a client has room, and which it has: version and filling.
type Model = (u64, BTreeMap<u64, (u64, u8)>);

#[derive(Clone, Debug)]
enum Step {
    Write(u8, Vec<(u64, u64, u8)>),
    Read(u8, Vec<u64>),
    Free(u8, u64, u64),
    Invalidate(u8, u64, u64),
    Allocate(u8, u64),
    Detach(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..PAGES + 2;
    let one = (number(), 1..6u64, 1..=255u8);
    prop_oneof![
        4 => (0..2u8, prop::collection::vec(one, 1..9)).prop_map(|(who, pages)| Step::Write(who, pages)),
        3 => (0..2u8, prop::collection::vec(number(), 1..9)).prop_map(|(who, pages)| Step::Read(who, pages)),
        2 => (0..2u8, number(), 0..6u64).prop_map(|(who, number, version)| Step::Free(who, number, version)),
        1 => (0..2u8, number(), 0..9u64).prop_map(|(who, first, count)| Step::Invalidate(who, first, count)),
        1 => (0..2u8, number()).prop_map(|(who, pages)| Step::Allocate(who, pages)),
        1 => (0..2u8).prop_map(Step::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]

    #[test]
    fn random_histories_are_those_of_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let memory = Memory::new();
        let set = set(&memory);
        let mut bench = Bench::new(&set);
        let mut models: [Model; 2] = Default::default();
        for step in steps {
            let who_asks = match &step {
                Step::Write(who, _) | Step::Read(who, _) | Step::Free(who, ..) => *who,
                Step::Invalidate(who, ..) | Step::Allocate(who, _) | Step::Detach(who) => *who,
            };
            let connection = u64::from(who_asks) + 1;
            if bench.server.clients.by_connection(connection).is_none() {
                models[usize::from(who_asks)] = Default::default();
                prop_assert_eq!(bench.attach(connection, who(who_asks, 0)).0, Status::Ok);
            }
            let others = models[1 - usize::from(who_asks)].0;
            let (allocated, pages) = &mut models[usize::from(who_asks)];
            match step {
                Step::Write(_, list) => {
                    let fits = list.iter().all(|(number, ..)| number < allocated);
                    let status = bench.write(connection, &list);
                    prop_assert_eq!(status == Status::Ok, fits);
                    for (number, version, fill) in list.into_iter().filter(|_| fits) {
                        let there = pages.entry(number).or_default();
                        if there.0 <= version {
                            *there = (version, fill);
                        }
                    }
                }
                Step::Read(_, numbers) => {
                    let reply = bench.read(connection, &numbers);
                    for ((number, page), bytes) in numbers.iter().zip(reply.pages()).zip(reply.data.chunks(PAGE)) {
                        let (version, fill) = pages.get(number).copied().unwrap_or_default();
                        prop_assert_eq!((page.version.get(), page.seal), (version, [fill; 16]));
                        prop_assert!(bytes.iter().all(|byte| *byte == fill));
                    }
                }
                Step::Free(_, number, version) => {
                    bench.ask(connection, Kind::Free, &list(&[page(number, version, 0)], 0), &[]);
                    if pages.get(&number).is_some_and(|there| there.0 <= version) {
                        pages.remove(&number);
                    }
                }
                Step::Invalidate(_, first, count) => {
                    let range = Range { first: first.into(), count: count.into() };
                    bench.ask(connection, Kind::Invalidate, range.as_bytes(), &[]);
                    pages.retain(|number, _| !(first..first + count).contains(number));
                }
                Step::Allocate(_, wanted) => {
                    let amount = Amount { pages: wanted.into() };
                    bench.ask(connection, Kind::Allocate, amount.as_bytes(), &[]);
                    pages.retain(|number, _| *number < wanted.max(if wanted < *allocated { 0 } else { *allocated }));
                    if wanted + others <= PAGES {
                        *allocated = wanted;
                    }
                }
                Step::Detach(_) => {
                    bench.ask(connection, Kind::Detach, &[], &[]);
                    *allocated = 0;
                    pages.clear();
                }
            }
            let stored: usize = models.iter().map(|(_, pages)| pages.len()).sum();
            prop_assert_eq!(bench.server.frames.free, bench.server.layout.frames - stored as u64);
        }
        for connection in [1, 2] {
            bench.ask(connection, Kind::Detach, &[], &[]);
        }
        bench.assert_empty();
    }
}
