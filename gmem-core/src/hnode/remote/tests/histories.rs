//! Random histories against a model.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Store(u64),
    Free(usize),
    Load(usize),
    Announce(usize),
    Cut(bool),
    Kill(bool),
    Lie(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..90_u64).prop_map(Step::Store),
        3 => any::<usize>().prop_map(Step::Free),
        4 => any::<usize>().prop_map(Step::Load),
        2 => any::<usize>().prop_map(Step::Announce),
        1 => any::<bool>().prop_map(Step::Cut),
        1 => any::<bool>().prop_map(Step::Kill),
        1 => any::<bool>().prop_map(Step::Lie),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Two holders, of which one at a time fails, and the other has all by then: whatever happens, a page that comes back is
    /// the one that was stored, and it comes.
    #[test]
    fn any_history_with_one_failure_at_a_time_loses_nothing(steps in prop::collection::vec(step(), 1..40)) {
        let places = [Place::new(), Place::new()];
        let tier = remote(&[&places[0], &places[1]], 10_000, OnFailure::Fail);
        let mut model: HashMap<u64, u64> = HashMap::new();
        let mut value = 0;
        let whole = |model: &HashMap<u64, u64>| {
            let marks = &tier.shared.marks;
            model.keys().all(|frame| marks.get(*frame).holders == 3) && tier.shared.flight().pages() == 0
        };
        let honest = || places.iter().for_each(|place| place.lies.store(false, Ordering::Relaxed));
        let pick = |model: &HashMap<u64, u64>, at: usize| {
            let mut frames: Vec<_> = model.keys().copied().collect();
            frames.sort_unstable();
            (!frames.is_empty()).then(|| frames[at % frames.len()])
        };
        for step in steps {
            match step {
                Step::Store(count) => {
                    let all: Vec<u8> = (value..value + count).flat_map(bytes).collect();
                    let mut at = value;
                    tier.store_pages(&all, &mut |_, frame| {
                        model.insert(frame.0, at);
                        at += 1;
                    }).unwrap();
                    value += count;
                }
                Step::Free(at) => if let Some(frame) = pick(&model, at) {
                    model.remove(&frame);
                    tier.free(Frame(frame), Unit::Page);
                },
                Step::Load(at) => if let Some(frame) = pick(&model, at) {
                    let mut into = bytes(0);
                    tier.load(Frame(frame), &mut into).unwrap();
                    prop_assert_eq!(into, bytes(model[&frame]));
                },
                Step::Announce(at) => if let Some(frame) = pick(&model, at) {
                    let frames: Vec<_> = model.keys().filter(|it| **it >= frame).take(100).map(|it| Frame(*it)).collect();
                    tier.announce(&frames);
                },
                Step::Cut(which) => {
                    honest();
                    places[usize::from(which)].cut();
                }
                Step::Kill(which) => {
                    honest();
                    until("both have all", || whole(&model));
                    let lives = || tier.troubles().lives.load(Ordering::Relaxed);
                    let before = lives();
                    places[usize::from(which)].kill();
                    places[usize::from(which)].start();
                    // Until then the marks say what was.
                    until("it is noticed", || lives() > before);
                }
                Step::Lie(which) => {
                    until("both have all", || whole(&model));
                    places[usize::from(!which)].lies.store(false, Ordering::Relaxed);
                    places[usize::from(which)].lies.store(true, Ordering::Relaxed);
                }
            }
        }
        for (frame, value) in &model {
            let mut into = bytes(0);
            tier.load(Frame(*frame), &mut into).unwrap();
            prop_assert_eq!(into, bytes(*value), "frame {}", frame);
        }
    }
}
