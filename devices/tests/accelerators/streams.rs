//! Commands on threads of the accelerators' own.

use std::sync::{Arc, Mutex, mpsc};

use gmem_core::page::Unit;
use gmem_devices::accel::mmu::{Gpu, Npu};
use gmem_devices::accel::{Command, CommandError, Stream, StreamFull};

use crate::simulated::{bench, hbm};
use crate::{PAGE, attach, get};

#[test]
fn commands_of_a_stream_come_one_after_the_other_and_streams_side_by_side() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, npu) = attach::<Npu>(&bench, 64);
    let (_gpu, gpu) = attach::<Gpu>(&bench, 128);
    let streams = [
        Stream::new(npu, 100).unwrap(),
        Stream::new(gpu, 100).unwrap(),
    ];
    let answers = Arc::new(Mutex::new([vec![], vec![]]));
    // Each copies what it has filled before, 20 times over, and adds it up.
    for round in 0..20u64 {
        for (who, stream) in streams.iter().enumerate() {
            let base = (100 + 400 * who as u64) * PAGE;
            let len = 10 * PAGE;
            let commands = [
                Command::Fill {
                    to: base,
                    len,
                    pattern: round + 1,
                },
                Command::Copy {
                    from: base,
                    to: base + 20 * PAGE,
                    len,
                },
                Command::Sum {
                    from: base + 20 * PAGE,
                    len,
                },
            ];
            for command in commands {
                let answers = Arc::clone(&answers);
                let done = move |answer: Result<u64, CommandError>| {
                    answers.lock().unwrap()[who].push(answer.unwrap());
                };
                stream.submit(command, done).unwrap();
            }
        }
    }
    streams.iter().for_each(Stream::synchronize);
    let expected: Vec<u64> = (1..=20)
        .flat_map(|round| [0, 0, round * 10 * PAGE / 8])
        .collect();
    assert_eq!(*answers.lock().unwrap(), [expected.clone(), expected]);
    assert_eq!(get(&bench, 520, 8), 20u64.to_le_bytes());
    bench.audit();
}

#[test]
fn a_stream_that_ends_tells_everybody_and_takes_no_more_than_its_depth() {
    let bench = bench(1024, 512, Unit::Page, vec![hbm(1024)]);
    let (_npu, npu) = attach::<Npu>(&bench, 64);
    let stream = Stream::new(npu, 3).unwrap();
    let (begun, wait) = mpsc::channel();
    let (release, held) = mpsc::channel::<()>();
    let fill = Command::Fill {
        to: 0,
        len: 900 * PAGE,
        pattern: 1,
    };
    let small = Command::Fill {
        to: 0,
        len: 8,
        pattern: 2,
    };
    // The stream's thread is held in the first one's answer, so the others wait.
    let hold = move |answer: Result<u64, CommandError>| {
        begun.send(answer.is_ok()).unwrap();
        let _ = held.recv();
    };
    stream.submit(small, hold).unwrap();
    assert!(wait.recv().unwrap());
    let ends = Arc::new(Mutex::new(vec![]));
    for command in [fill, fill, small] {
        let ends = Arc::clone(&ends);
        let done = move |answer: Result<u64, CommandError>| {
            ends.lock()
                .unwrap()
                .push(matches!(answer, Err(CommandError::Stopped)));
        };
        stream.submit(command, done).unwrap();
    }
    assert_eq!(stream.submit(small, |_| ()), Err(StreamFull(3)));
    let ending = std::thread::spawn(move || drop(stream));
    release.send(()).unwrap();
    ending.join().unwrap();
    let ends = ends.lock().unwrap();
    assert_eq!(ends.len(), 3, "all are told");
    assert!(
        ends.is_sorted(),
        "after the end nothing is carried out: {ends:?}"
    );
    bench.audit();
}
