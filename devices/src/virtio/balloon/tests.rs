//! A balloon and its driver.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::ByteValued;

use super::*;
use crate::virtio::testing::{Bench, Part, TestMemory, attacks};
use crate::virtio::{Device, DeviceMemory};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const HINTING: usize = 3;
const REPORTING: usize = 4;

fn started() -> (Bench<Balloon>, BalloonControl) {
    let memory = TestMemory::new();
    let (device, control) = Balloon::new(memory.clone(), BalloonOptions::default()).unwrap();
    let mut bench = Bench::over(memory, device);
    let offered = bench.device.features();
    bench.start(offered).unwrap();
    (bench, control)
}

fn request(bench: &mut Bench<Balloon>, queue: usize, part: Part) {
    bench.send(queue, &[part]);
    bench.notify(queue).unwrap();
    assert_eq!(bench.used(queue).len(), 1);
}

fn pfns(pages: &[u32]) -> Part {
    Part::Out(pages.iter().flat_map(|page| page.to_le_bytes()).collect())
}

fn config(bench: &mut Bench<Balloon>) -> [u32; 4] {
    let bytes = bench.device.config();
    let words: Vec<u32> = bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect();
    words.try_into().unwrap()
}

fn metrics(bench: &mut Bench<Balloon>) -> serde_json::Value {
    bench.device.metrics()
}

#[test]
fn inflated_pages_are_freed_as_ranges_whatever_their_order() {
    let (mut bench, _) = started();
    bench.memory.put(0x10_0000, &[7; 0x3000]);
    request(
        &mut bench,
        INFLATE,
        pfns(&[0x102, 0x100, 0x1fe, 0x101, 0x100]),
    );
    let freed = bench.memory.freed.lock().unwrap().clone();
    assert_eq!(freed, [(0x10_0000, 0x3000), (0x1f_e000, 0x1000)]);
    assert_eq!(bench.memory.bytes(0x10_0000, 0x3000), [0; 0x3000]);
    assert!(bench.interrupted());
    assert_eq!(metrics(&mut bench)["inflated_pages"], 4);
}

#[test]
fn a_page_that_is_not_ram_is_refused_and_its_neighbours_are_freed() {
    let (mut bench, _) = started();
    request(&mut bench, INFLATE, pfns(&[0x1ff, 0x200, u32::MAX]));
    let freed = bench.memory.freed.lock().unwrap().clone();
    assert_eq!(freed, [(0x1f_f000, 0x1000)]);
    assert_eq!(metrics(&mut bench)["refused_bytes"], 2 * PAGE_SIZE);
}

#[test]
fn deflated_pages_are_counted_and_left_alone() {
    let (mut bench, _) = started();
    bench.memory.put(0x10_0000, &[7; 8]);
    request(&mut bench, DEFLATE, pfns(&[0x100, 0x101]));
    assert_eq!(bench.memory.bytes(0x10_0000, 8), [7; 8]);
    assert_eq!(metrics(&mut bench)["deflated_pages"], 2);
}

#[test]
fn more_pages_than_any_driver_sends_at_once_break_the_device() {
    let (mut bench, _) = started();
    bench.send(INFLATE, &[Part::Out(vec![0; (1 << 18) + 4])]);
    let broken = bench.notify(INFLATE).unwrap_err();
    assert!(broken.0.contains("262144 are the most"), "{broken}");
}

#[test]
fn the_target_is_in_the_configuration_and_what_the_driver_has_comes_back() {
    let (mut bench, control) = started();
    control.set_target_bytes(3 * PAGE_SIZE).unwrap();
    assert_eq!(config(&mut bench), [3, 0, 0, 0]);
    bench.device.write_config(4, &2u32.to_le_bytes());
    assert_eq!(control.actual_bytes(), 2 * PAGE_SIZE);
    // The target is not the driver's.
    bench.with(|device, _| super::super::Device::write_config(device, 0, &[0xff; 4]));
    assert_eq!(control.target_bytes(), 3 * PAGE_SIZE);
}

#[test]
fn a_target_larger_than_memory_or_of_half_a_page_is_refused() {
    let (_bench, control) = started();
    let memory = 3 << 20;
    control.set_target_bytes(memory).unwrap();
    let too_large = TargetError::TooLarge {
        bytes: memory + PAGE_SIZE,
        memory,
    };
    assert_eq!(control.set_target_bytes(memory + PAGE_SIZE), Err(too_large));
    assert_eq!(
        control.set_target_bytes(100),
        Err(TargetError::NotPages(100))
    );
    assert_eq!(control.target_bytes(), memory);
}

fn statistic(tag: u16, value: u64) -> Vec<u8> {
    [tag.as_slice(), value.as_slice()].concat()
}

#[test]
fn statistics_come_when_they_are_asked_for() {
    let (mut bench, control) = started();
    let first = [statistic(4, 10), statistic(99, 1)].concat();
    bench.send(STATISTICS, &[Part::Out(first)]);
    bench.notify(STATISTICS).unwrap();
    assert_eq!(
        control.statistics().unwrap().get(Statistic::FreeBytes),
        Some(10)
    );
    // The buffer stays until somebody asks.
    bench.serve_sources(Duration::from_millis(1)).unwrap();
    assert!(bench.used(STATISTICS).is_empty());
    control.request_statistics().unwrap();
    bench
        .serve_until(|bench| !bench.used(STATISTICS).is_empty())
        .unwrap();
    assert!(bench.interrupted());
    bench.send(STATISTICS, &[Part::Out(statistic(4, 20))]);
    bench.notify(STATISTICS).unwrap();
    assert_eq!(
        control.statistics().unwrap().get(Statistic::FreeBytes),
        Some(20)
    );
    // Asked once, answered once.
    bench.serve_sources(Duration::from_millis(5)).unwrap();
    assert!(bench.used(STATISTICS).is_empty());
}

#[test]
fn an_interval_asks_again_and_again() {
    let (mut bench, control) = started();
    control
        .set_statistics_interval(Some(Duration::from_millis(1)))
        .unwrap();
    for value in 0..3 {
        bench.send(STATISTICS, &[Part::Out(statistic(0, value))]);
        bench.notify(STATISTICS).unwrap();
        bench
            .serve_until(|bench| !bench.used(STATISTICS).is_empty())
            .unwrap();
    }
    assert_eq!(
        control.statistics().unwrap().get(Statistic::SwapInBytes),
        Some(2)
    );
}

#[test]
fn after_a_reset_nothing_wakes_the_device() {
    let (mut bench, control) = started();
    control
        .set_statistics_interval(Some(Duration::from_nanos(1)))
        .unwrap();
    std::thread::sleep(Duration::from_millis(1));
    bench.device.reset();
    assert!(matches!(
        control.request_statistics(),
        Err(StatisticsError::NoDriver)
    ));
    assert_eq!(control.begin_hinting(), Err(HintingError::NoDriver));
    let fd = bench.device.sources()[0];
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    assert_eq!(unsafe { libc::poll(&mut poll, 1, 5) }, 0);
}

#[test]
fn reported_memory_is_freed_before_it_is_given_back() {
    let (mut bench, _) = started();
    let gpa = 0x10_0000;
    bench.memory.put(gpa, &[7; 0x2000]);
    let ring = &mut bench.rings[REPORTING];
    ring.send(
        &bench.memory,
        &[(gpa, 0x1000, true), (gpa + 0x1000, 0x1000, true)],
    );
    bench.notify(REPORTING).unwrap();
    assert_eq!(bench.used(REPORTING).len(), 1);
    assert_eq!(bench.memory.bytes(gpa, 0x2000), [0; 0x2000]);
    assert_eq!(metrics(&mut bench)["reported_bytes"], 0x2000);
}

#[test]
fn of_a_reported_range_only_whole_pages_are_freed() {
    let (mut bench, _) = started();
    let gpa = 0x10_0000;
    bench.memory.put(gpa, &[7; 0x3000]);
    let buffers = [
        (gpa + 0x800, 0x2000, true),
        (u64::MAX - 10, 5, true),
        (1 << 40, 0x1000, true),
    ];
    bench.rings[REPORTING].send(&bench.memory, &buffers);
    bench.notify(REPORTING).unwrap();
    let freed = bench.memory.freed.lock().unwrap().clone();
    assert_eq!(freed, [(gpa + 0x1000, 0x1000)]);
    assert_eq!(bench.memory.bytes(gpa, 0x1000), [7; 0x1000]);
    assert_eq!(metrics(&mut bench)["refused_bytes"], 0x1005);
}

#[test]
fn hinted_pages_are_noted_and_keep_what_the_guest_writes() {
    let (mut bench, control) = started();
    let command = control.begin_hinting().unwrap();
    assert_eq!(config(&mut bench)[2], command);
    request(&mut bench, HINTING, Part::Out(command.to_le_bytes().into()));
    let gpa = 0x10_0000;
    let hints = [(gpa, 0x4000, true), (gpa + 0x8000, 0x1000, true)];
    bench.rings[HINTING].send(&bench.memory, &hints);
    // The guest needs the page after all, before the device looks.
    bench.memory.put(gpa, &[7; 8]);
    bench.notify(HINTING).unwrap();
    assert_eq!(bench.memory.bytes(gpa, 8), [7; 8]);
    assert!(bench.memory.freed.lock().unwrap().is_empty());
    assert_eq!(bench.used(HINTING).len(), 1);
    let noted = [gpa..gpa + 0x4000, gpa + 0x8000..gpa + 0x9000];
    assert_eq!(control.hints(), noted);
    request(&mut bench, HINTING, Part::Out(0u32.to_le_bytes().into()));
    assert!(control.hinting().complete);
    control.end_hinting();
    assert_eq!(config(&mut bench)[2], 1);
    assert!(control.hints().is_empty());
}

#[test]
fn a_saved_balloon_goes_on_as_it_was() {
    let (mut bench, control) = started();
    control.set_target_bytes(8 * PAGE_SIZE).unwrap();
    let sent = bench.send(STATISTICS, &[Part::Out(statistic(4, 1))]);
    bench.notify(STATISTICS).unwrap();
    let state = bench.device.state();
    let json = serde_json::to_string(&state).unwrap();

    let memory: Arc<dyn DeviceMemory> = bench.memory.clone();
    let (mut device, control) = Balloon::new(memory, BalloonOptions::default()).unwrap();
    device
        .restore(&serde_json::from_str(&json).unwrap())
        .unwrap();
    assert_eq!(device.state(), state);
    let old = std::mem::replace(&mut bench.device, device);
    drop(old);
    assert_eq!(control.target_bytes(), 8 * PAGE_SIZE);
    control.request_statistics().unwrap();
    let mut used = Vec::new();
    bench
        .serve_until(|bench| {
            used = bench.used(STATISTICS);
            !used.is_empty()
        })
        .unwrap();
    assert_eq!(used[0].head, sent.head);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_hostile_driver_breaks_its_balloon_at_most(attack in attacks()) {
        let (mut bench, control) = started();
        let _ = control.begin_hinting();
        let _ = bench.attack(&attack);
        for (gpa, len) in bench.memory.freed.lock().unwrap().iter() {
            prop_assert!(gpa % PAGE_SIZE == 0 && len % PAGE_SIZE == 0 && *len > 0);
        }
    }
}
