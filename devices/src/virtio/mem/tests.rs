//! Plugged memory and its driver.

use std::io;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, TestMemory, attacks};

/// The region: the bench's last one, of 1 MiB, by blocks of 64 KiB.
const ADDR: u64 = 3 << 20;
const REGION: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

const PLUG: u16 = 0;
const UNPLUG: u16 = 1;
const UNPLUG_ALL: u16 = 2;
const STATE: u16 = 3;

const ACK: u16 = 0;
const NACK: u16 = 1;
const BUSY: u16 = 2;
const ERROR: u16 = 3;

/// A monitor that notes what it is told.
#[derive(Clone, Default)]
struct Monitor(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    /// What the guest may touch: one bit a block.
    accessible: u16,
    refuse: bool,
}

impl Monitor {
    fn change(&self, gpa: u64, len: u64, accessible: bool) -> io::Result<()> {
        let mut noted = self.0.lock().unwrap();
        if noted.refuse {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        assert!(gpa >= ADDR && gpa + len <= ADDR + REGION && gpa.is_multiple_of(BLOCK));
        for block in (gpa - ADDR) / BLOCK..(gpa - ADDR + len) / BLOCK {
            let bit = 1 << block;
            assert_eq!(
                noted.accessible & bit != 0,
                !accessible,
                "a change that is none"
            );
            noted.accessible ^= bit;
        }
        Ok(())
    }

    fn accessible(&self) -> u16 {
        self.0.lock().unwrap().accessible
    }

    fn refuse(&self, refuse: bool) {
        self.0.lock().unwrap().refuse = refuse;
    }
}

impl Blocks for Monitor {
    fn plug(&mut self, gpa: u64, len: u64) -> io::Result<()> {
        self.change(gpa, len, true)
    }

    fn unplug(&mut self, gpa: u64, len: u64) -> io::Result<()> {
        self.change(gpa, len, false)
    }
}

fn options() -> MemOptions {
    MemOptions {
        block_size: BLOCK,
        ..MemOptions::new(ADDR, REGION)
    }
}

fn started(requested: u64) -> (Bench<Mem>, MemControl, Monitor) {
    let memory = TestMemory::new();
    let monitor = Monitor::default();
    let (device, control) = Mem::new(memory.clone(), Box::new(monitor.clone()), options()).unwrap();
    control.set_requested_bytes(requested).unwrap();
    let mut bench = Bench::over(memory, device);
    bench.start(bench.device.features()).unwrap();
    (bench, control, monitor)
}

/// Sends a request: the response's type and state.
fn request(bench: &mut Bench<Mem>, kind: u16, block: u64, count: u16) -> (u16, u16) {
    raw_request(bench, kind, ADDR + block * BLOCK, count)
}

fn raw_request(bench: &mut Bench<Mem>, kind: u16, addr: u64, count: u16) -> (u16, u16) {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&addr.to_le_bytes());
    bytes[16..18].copy_from_slice(&count.to_le_bytes());
    let sent = bench.send(0, &[Part::Out(bytes.into()), Part::In(10)]);
    bench.notify(0).unwrap();
    let used = bench.used(0);
    assert_eq!(
        (used.len(), used[0].head, used[0].written),
        (1, sent.head, 10)
    );
    assert!(bench.interrupted());
    let part = bench.part(&sent, 1);
    let word = |at: usize| u16::from_le_bytes([part[at], part[at + 1]]);
    (word(0), word(8))
}

#[test]
fn the_guest_plugs_up_to_the_requested_size() {
    let (mut bench, control, monitor) = started(3 * BLOCK);
    assert_eq!(request(&mut bench, PLUG, 4, 2).0, ACK);
    assert_eq!(monitor.accessible(), 0b11_0000);
    assert_eq!(request(&mut bench, PLUG, 8, 2).0, NACK);
    assert_eq!(request(&mut bench, PLUG, 8, 1).0, ACK);
    assert_eq!(request(&mut bench, PLUG, 9, 1).0, NACK);
    assert_eq!(control.plugged_bytes(), 3 * BLOCK);
    control.set_requested_bytes(4 * BLOCK).unwrap();
    assert_eq!(request(&mut bench, PLUG, 9, 1).0, ACK);
    assert_eq!(monitor.accessible(), 0b11_0011_0000);
}

#[test]
fn unplugged_blocks_are_freed() {
    let (mut bench, control, monitor) = started(REGION);
    assert_eq!(request(&mut bench, PLUG, 0, 4).0, ACK);
    bench.memory.put(ADDR, &vec![7; 4 * BLOCK as usize]);
    assert_eq!(request(&mut bench, UNPLUG, 1, 2).0, ACK);
    assert_eq!(monitor.accessible(), 0b1001);
    let freed = bench.memory.freed.lock().unwrap().clone();
    assert_eq!(freed, [(ADDR + BLOCK, 2 * BLOCK)]);
    assert_eq!(control.plugged_bytes(), 2 * BLOCK);
    assert_eq!(bench.memory.bytes(ADDR, 8), [7; 8]);
    assert_eq!(bench.memory.bytes(ADDR + BLOCK, 8), [0; 8]);
}

#[test]
fn blocks_plugged_twice_or_unplugged_twice_are_errors() {
    let (mut bench, _, monitor) = started(REGION);
    assert_eq!(request(&mut bench, UNPLUG, 0, 1).0, ERROR);
    assert_eq!(request(&mut bench, PLUG, 0, 2).0, ACK);
    assert_eq!(request(&mut bench, PLUG, 1, 2).0, ERROR);
    assert_eq!(request(&mut bench, UNPLUG, 1, 2).0, ERROR);
    assert_eq!(monitor.accessible(), 0b11);
}

#[test]
fn what_lies_outside_the_region_or_between_blocks_is_an_error() {
    let (mut bench, _, monitor) = started(REGION);
    for kind in [PLUG, UNPLUG, STATE] {
        for (addr, count) in [
            (ADDR - BLOCK, 1),
            (ADDR + REGION, 1),
            (ADDR + REGION - BLOCK, 2),
            (ADDR + 4096, 1),
            (ADDR, 0),
            (ADDR, 17),
            (0, u16::MAX),
            (u64::MAX - BLOCK + 1, u16::MAX),
        ] {
            assert_eq!(raw_request(&mut bench, kind, addr, count).0, ERROR);
        }
    }
    assert_eq!(raw_request(&mut bench, 4, ADDR, 1).0, ERROR);
    assert_eq!(monitor.accessible(), 0);
}

#[test]
fn without_a_request_nothing_is_usable() {
    let (mut bench, _, _) = started(0);
    assert_eq!(request(&mut bench, PLUG, 0, 1).0, ERROR);
    assert_eq!(request(&mut bench, STATE, 0, 1).0, ERROR);
}

#[test]
fn the_state_of_blocks_is_plugged_unplugged_or_mixed() {
    let (mut bench, _, _) = started(REGION);
    request(&mut bench, PLUG, 2, 2);
    assert_eq!(request(&mut bench, STATE, 2, 2), (ACK, 0));
    assert_eq!(request(&mut bench, STATE, 4, 12), (ACK, 1));
    assert_eq!(request(&mut bench, STATE, 1, 2), (ACK, 2));
}

#[test]
fn a_monitor_that_refuses_is_busy_and_nothing_changes() {
    let (mut bench, control, monitor) = started(REGION);
    monitor.refuse(true);
    assert_eq!(request(&mut bench, PLUG, 0, 1).0, BUSY);
    assert_eq!(control.plugged_bytes(), 0);
    monitor.refuse(false);
    assert_eq!(request(&mut bench, PLUG, 0, 1).0, ACK);
    monitor.refuse(true);
    assert_eq!(request(&mut bench, UNPLUG, 0, 1).0, BUSY);
    assert_eq!(request(&mut bench, UNPLUG_ALL, 0, 0).0, BUSY);
    assert_eq!(control.plugged_bytes(), BLOCK);
    assert!(bench.memory.freed.lock().unwrap().is_empty());
}

#[test]
fn all_blocks_go_at_once() {
    let (mut bench, control, monitor) = started(REGION);
    request(&mut bench, PLUG, 0, 2);
    request(&mut bench, PLUG, 14, 2);
    control.set_requested_bytes(0).unwrap();
    assert_eq!(request(&mut bench, UNPLUG_ALL, 0, 0).0, ACK);
    assert_eq!(monitor.accessible(), 0);
    assert_eq!(control.plugged_bytes(), 0);
    let freed = bench.memory.freed.lock().unwrap().len();
    assert_eq!(freed, 2);
    assert_eq!(request(&mut bench, STATE, 0, 1).0, ERROR, "usable no more");
}

#[test]
fn the_configuration_is_laid_out_as_the_driver_reads_it() {
    let (mut bench, _, _) = started(4 * BLOCK);
    request(&mut bench, PLUG, 0, 1);
    let config = bench.device.config();
    let words: Vec<u64> = config
        .as_chunks()
        .0
        .iter()
        .map(|word| u64::from_le_bytes(*word))
        .collect();
    assert_eq!(config.len(), 56);
    assert_eq!(words, [BLOCK, 0, ADDR, REGION, REGION, BLOCK, 4 * BLOCK]);
}

#[test]
fn a_driver_that_would_read_unplugged_memory_is_turned_away() {
    let (mut bench, _, _) = started(0);
    assert!(bench.start(0).is_err());
}

#[test]
fn a_reset_keeps_the_blocks() {
    let (mut bench, control, monitor) = started(REGION);
    request(&mut bench, PLUG, 0, 2);
    bench.device.reset();
    assert_eq!(control.plugged_bytes(), 2 * BLOCK);
    assert_eq!(monitor.accessible(), 0b11);
}

#[test]
fn a_region_must_be_whole_blocks_of_ram() {
    let attempt = |change: fn(&mut MemOptions)| {
        let mut options = options();
        change(&mut options);
        let monitor = Box::new(Monitor::default());
        Mem::new(TestMemory::new(), monitor, options).err().unwrap()
    };
    use RegionError::*;
    assert!(matches!(attempt(|o| o.block_size = 3 << 12), BlockSize(_)));
    assert!(matches!(attempt(|o| o.block_size = 512), BlockSize(_)));
    assert!(matches!(attempt(|o| o.addr += 4096), NotBlocks { .. }));
    assert!(matches!(attempt(|o| o.region_size = 0), NotBlocks { .. }));
    assert!(matches!(attempt(|o| o.region_size += BLOCK), NotRam { .. }));
    assert!(matches!(attempt(|o| o.requested = 1), Requested(_)));
}

#[test]
fn a_saved_device_goes_on_with_the_same_blocks() {
    let (mut bench, control, _) = started(8 * BLOCK);
    request(&mut bench, PLUG, 1, 2);
    request(&mut bench, PLUG, 15, 1);
    control.set_requested_bytes(BLOCK).unwrap();
    let json = serde_json::to_string(&bench.device.state()).unwrap();

    let monitor = Monitor::default();
    let memory = bench.memory.clone();
    let (mut device, control) =
        Mem::new(memory.clone(), Box::new(monitor.clone()), options()).unwrap();
    device
        .restore(&serde_json::from_str(&json).unwrap())
        .unwrap();
    assert_eq!(device.state(), bench.device.state());
    assert_eq!(monitor.accessible(), 0b1000_0000_0000_0110);
    assert_eq!(control.plugged_bytes(), 3 * BLOCK);

    let other = MemOptions {
        block_size: 2 * BLOCK,
        ..options()
    };
    let (mut device, _) = Mem::new(memory, Box::new(Monitor::default()), other).unwrap();
    let refused = device.restore(&serde_json::from_str(&json).unwrap());
    assert!(matches!(refused, Err(RestoreError::OtherRegion { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_hostile_driver_breaks_its_device_at_most(attack in attacks()) {
        let (mut bench, control, monitor) = started(8 * BLOCK);
        let _ = bench.attack(&attack);
        let accessible = u64::from(monitor.accessible().count_ones()) * BLOCK;
        prop_assert_eq!(control.plugged_bytes(), accessible);
    }

    #[test]
    fn whatever_is_asked_for_the_guest_has_what_the_monitor_gave(
        requests in prop::collection::vec((0..5u16, 0..18u64, 0..6u16, 0..17u64), 1..60)
    ) {
        let (mut bench, control, monitor) = started(8 * BLOCK);
        for (kind, block, count, requested) in requests {
            let before = control.plugged_bytes();
            let (response, _) = request(&mut bench, kind, block, count);
            let plugged = control.plugged_bytes();
            prop_assert_eq!(u64::from(monitor.accessible().count_ones()) * BLOCK, plugged);
            prop_assert!(plugged <= before.max(control.requested_bytes()));
            if response != ACK {
                prop_assert_eq!(plugged, before);
            }
            let _ = control.set_requested_bytes(requested * BLOCK);
        }
    }
}
