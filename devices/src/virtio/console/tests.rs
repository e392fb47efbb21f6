//! The console before drivers good and bad.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Used, attacks_like};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn console() -> (Bench<Console>, Screen, PipeWriter) {
    let screen = Screen::default();
    let (reader, keyboard) = io::pipe().unwrap();
    let console = Console::new(Box::new(screen.clone()), Some(reader.into())).unwrap();
    (Bench::started(console), screen, keyboard)
}

/// Serves the console's sources for a while, to see that nothing happens.
fn idle(bench: &mut Bench<Console>) {
    for _ in 0..3 {
        bench.serve_sources(Duration::from_millis(5)).unwrap();
    }
}

#[test]
fn what_the_driver_writes_is_shown_in_order() {
    let (mut bench, screen, _keyboard) = console();
    let first = bench.send(
        TRANSMIT,
        &[Part::Out(b"hel".into()), Part::Out(b"lo, ".into())],
    );
    let second = bench.send(TRANSMIT, &[Part::Out(b"world".into())]);
    bench.notify(TRANSMIT).unwrap();
    let used = [first, second].map(|sent| Used {
        head: sent.head,
        written: 0,
    });
    assert_eq!(bench.used(TRANSMIT), used);
    assert!(bench.interrupted());
    bench
        .serve_until(|_| *screen.0.lock().unwrap() == b"hello, world")
        .unwrap();
    assert_eq!(bench.device.metrics()["output_bytes"], 12);
}

#[test]
fn what_is_typed_waits_for_a_buffer_and_then_fills_it() {
    let (mut bench, _, mut keyboard) = console();
    keyboard.write_all(b"abcdef").unwrap();
    bench.ready(0).unwrap();
    assert!(
        !bench.device.wants(0),
        "without a buffer nobody waits for input"
    );
    let sent = bench.send(RECEIVE, &[Part::In(1), Part::In(3)]);
    let next = bench.send(RECEIVE, &[Part::In(100)]);
    bench.notify(RECEIVE).unwrap();
    let used = [(sent.head, 4), (next.head, 2)].map(|(head, written)| Used { head, written });
    assert_eq!(bench.used(RECEIVE), used);
    assert_eq!(bench.part(&sent, 0), b"a");
    assert_eq!(bench.part(&sent, 1), b"bcd");
    assert_eq!(bench.part(&next, 0)[..2], *b"ef");
    assert!(bench.interrupted());
}

#[test]
fn a_buffer_waits_for_what_is_typed() {
    let (mut bench, _, mut keyboard) = console();
    let sent = bench.send(RECEIVE, &[Part::In(64)]);
    bench.notify(RECEIVE).unwrap();
    assert_eq!(bench.used(RECEIVE), []);
    assert!(bench.device.wants(0));
    keyboard.write_all(b"late").unwrap();
    let mut used = Vec::new();
    bench
        .serve_until(|bench| {
            used.extend(bench.used(RECEIVE));
            !used.is_empty()
        })
        .unwrap();
    let head = sent.head;
    assert_eq!(used, [Used { head, written: 4 }]);
}

#[test]
fn the_end_of_input_is_the_end_of_waiting_for_it() {
    let (mut bench, screen, mut keyboard) = console();
    keyboard.write_all(b"bye").unwrap();
    drop(keyboard);
    bench.send(RECEIVE, &[Part::In(64)]);
    bench.send(RECEIVE, &[Part::In(64)]);
    bench.notify(RECEIVE).unwrap();
    assert_eq!(bench.used(RECEIVE).len(), 1);
    assert!(!bench.device.wants(0));
    idle(&mut bench);
    assert_eq!(bench.used(RECEIVE), []);
    bench.send(TRANSMIT, &[Part::Out(b"still here".into())]);
    bench.notify(TRANSMIT).unwrap();
    bench
        .serve_until(|_| *screen.0.lock().unwrap() == b"still here")
        .unwrap();
}

#[test]
fn input_that_cannot_be_waited_for_is_read_when_there_is_a_buffer() {
    let null = File::open("/dev/null").unwrap();
    let console = Console::new(Box::new(io::sink()), Some(null.into())).unwrap();
    let mut bench = Bench::started(console);
    assert!(bench.device.sources().is_empty());
    bench.send(RECEIVE, &[Part::In(8)]);
    bench.notify(RECEIVE).unwrap();
    assert_eq!(bench.used(RECEIVE), []);

    let file = File::open("/proc/self/comm").unwrap();
    let console = Console::new(Box::new(io::sink()), Some(file.into())).unwrap();
    let mut bench = Bench::started(console);
    bench.send(RECEIVE, &[Part::In(64)]);
    bench.notify(RECEIVE).unwrap();
    bench
        .serve_until(|bench| !bench.used(RECEIVE).is_empty())
        .unwrap();
}

#[test]
fn the_size_is_on_offer_if_it_is_known() {
    let console = || Console::new(Box::new(io::sink()), None).unwrap();
    assert_eq!(console().features(), 0);
    let sized = console().with_size(80, 25);
    assert_eq!(sized.features(), 1);
    assert_eq!(sized.config(), [80, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        sized.state(),
        State {
            size: Some((80, 25))
        }
    );
}

#[test]
fn a_flood_is_bounded_and_what_is_lost_is_counted() {
    struct Stuck;
    impl Write for Stuck {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut bench = Bench::started(Console::new(Box::new(Stuck), None).unwrap());
    for _ in 0..4 {
        bench.send(TRANSMIT, &[Part::Out(vec![b'x'; 100_000])]);
    }
    bench.notify(TRANSMIT).unwrap();
    assert_eq!(bench.used(TRANSMIT).len(), 4, "the driver never waits");
    let metrics = bench.device.metrics();
    assert_eq!(metrics["output_bytes"], 400_000);
    // One buffer may be in the writer's hands, one waits.
    let dropped = metrics["dropped_bytes"].as_u64().unwrap();
    let kept = 400_000 - dropped as usize;
    assert!((BUFFER_SIZE..=2 * BUFFER_SIZE).contains(&kept), "{kept}");
}

#[test]
fn buffers_of_the_wrong_kind_break_the_device() {
    let (mut bench, _, mut keyboard) = console();
    keyboard.write_all(b"x").unwrap();
    bench.send(RECEIVE, &[Part::Out(b"no".into())]);
    assert!(bench.notify(RECEIVE).is_err());
    let (mut bench, _, _keyboard) = console();
    bench.send(TRANSMIT, &[Part::In(8)]);
    assert!(bench.notify(TRANSMIT).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_driver_makes_it_write_beside_guest_memory(
        attack in attacks_like(&[&[(64, true)], &[(100, false)], &[(1, true), (5000, true)]]),
    ) {
        let (mut bench, _, mut keyboard) = console();
        keyboard.write_all(&[7; 30_000]).unwrap();
        bench.attack(&attack);
    }
}
