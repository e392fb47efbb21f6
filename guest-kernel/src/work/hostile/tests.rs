//! What devices that obey are told, whatever is done to requests: nothing that would write beyond the target zone.

use super::*;
use crate::clock::Frequency;
use crate::memory::{Page, Region, WorkingSet};
use crate::plan::Plan;
use crate::work::hostile::arena::{NUMBERS_SIZE, QUEUE_SIZE, QUEUES};
use core::fmt;
use core::sync::atomic::AtomicU64;
use gmem_wire::gmem::{self, advice};
use gmem_wire::layout::MMIO_END;
use gmem_wire::xpu::{self, op};
use std::string::String;
use std::vec::Vec;

/// Devices that do nothing.
struct Idle;

impl Machine for Idle {
    fn barrier(&self) {}

    fn line(&self, _: fmt::Arguments<'_>) {}

    fn read_device(&self, _: usize, offset: u64, _: u8) -> u64 {
        u64::from(offset == crate::virtio::registers::QUEUE_NUM_MAX) * 128
    }
}

/// Calls `look` after each of many rounds of attacks on a device of this kind.
fn attack(kind: Kind, mut look: impl FnMut(&Arena<'_>)) {
    let mut pages: Vec<Page> = Vec::new();
    pages.resize_with(10 * 256, || [const { AtomicU64::new(0) }; PAGE_WORDS]);
    let start = (pages.as_ptr() as u64).next_multiple_of(2 << 20);
    let end = pages.as_ptr_range().end as u64 / PAGE_SIZE * PAGE_SIZE;
    // SAFETY: all of it lies in `pages`, which nobody else uses.
    let set = unsafe { WorkingSet::new([Region { start, end }].into_iter(), 0) };
    let arena = Arena::new(&set).unwrap();
    let plan = Plan::parse("hostile seed=3").unwrap();
    let frequency = Frequency {
        khz: 1,
        assumed: true,
    };
    let crew = Crew::new(&Idle, &plan, &set, frequency, 1, 2);
    let registers = Registers::new(&Idle, 0);
    let mut attack = Attack::new(&crew, arena, 0..0, (registers, kind));
    arena.clear_tables(1);
    let mut score = Default::default();
    for _ in 0..400 {
        attack.round(&mut score);
        look(&arena);
    }
    assert!(score.attacks > 1000);
}

/// All descriptors of CPU 1: address, length, flags.
fn descriptors(arena: &Arena<'_>) -> Vec<(u64, u32, u16)> {
    let tables = (0..QUEUES).map(|queue| arena.queue(1, queue).table);
    let tables = tables.map(|at| at..at + 16 * u64::from(QUEUE_SIZE));
    let indirect = arena.indirect(1);
    let indirect = indirect..indirect + super::arena::INDIRECT_SIZE;
    let all = tables.chain(core::iter::once(indirect));
    all.flat_map(|range| range.step_by(16))
        .map(|at| {
            let rest = arena.get64(at + 8);
            (arena.get64(at), rest as u32, (rest >> 32) as u16)
        })
        .collect()
}

/// All pieces of `N` bytes that were told to CPU 1's device.
fn pieces<const N: usize>(arena: &Arena<'_>) -> Vec<[u8; N]> {
    let numbers = arena.numbers(1);
    let pieces = (numbers..numbers + NUMBERS_SIZE).step_by(N).map(|at| {
        let mut bytes = [0; N];
        arena.get_words(at, &mut bytes);
        bytes
    });
    pieces.filter(|bytes| *bytes != [0xff; N]).collect()
}

/// Whether a device may be told to write there: in the target zone, or where no memory is in any microVM that is attacked.
fn harmless(arena: &Arena<'_>, at: u64) -> bool {
    let told = arena.start()..arena.target().start;
    let beyond = at >= 1 << 40 || (MMIO_START..MMIO_END).contains(&at);
    beyond && !told.contains(&at)
}

#[test]
fn devices_that_obey_read_whole_pieces_of_what_they_are_told_or_nothing() {
    for kind in [Kind::Balloon, Kind::Xpu, Kind::Gmem] {
        let unit = kind.unit().unwrap();
        let mut readable = 0;
        attack(kind, |arena| {
            let numbers = arena.numbers(1)..arena.numbers(1) + NUMBERS_SIZE;
            for (address, len, flags) in descriptors(arena) {
                // Written by the device, or a table.
                if flags & 6 != 0 || len == 0 {
                    continue;
                }
                if numbers.contains(&address) {
                    let offset = address - numbers.start;
                    assert!(offset.is_multiple_of(unit.into()) || kind == Kind::Balloon);
                    assert!(len.is_multiple_of(unit));
                    readable += 1;
                } else {
                    assert!(address >= 1 << 40 && !(arena.start()..arena.end()).contains(&address));
                }
            }
        });
        assert!(readable > 1000);
    }
}

#[test]
fn accelerators_are_told_to_write_to_the_target_zone_alone() {
    let mut seen = [0u64; 12];
    attack(Kind::Xpu, |arena| {
        for bytes in pieces(arena) {
            let Some(xpu::Request { op, args }) = xpu::Request::from_bytes(&bytes) else {
                panic!("half a command: {bytes:?}");
            };
            let writes = match op {
                op::FILL | op::ATOMIC_ADD => Some(args[0]),
                op::COPY => Some(args[1]),
                op::SAXPY => Some(args[2]),
                op::GATHER | op::GEMM_F32 | op::GEMM_BF16 => Some(args[5]),
                op::ATTENTION => Some(args[6]),
                op::ADVISE if matches!(args[2], advice::FREE | advice::PIN) => Some(args[0]),
                _ => None,
            };
            let mut said = String::new();
            let _ = fmt::write(&mut said, format_args!("{op} {args:x?}"));
            assert!(writes.is_none_or(|at| harmless(arena, at)), "{said}");
            if let Some(seen) = seen.get_mut(op as usize) {
                *seen += 1;
            }
        }
    });
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

#[test]
fn the_door_is_told_to_change_the_target_zone_alone_and_to_cap_nothing() {
    let mut seen = [0u64; 6];
    attack(Kind::Gmem, |arena| {
        for bytes in pieces(arena) {
            let gmem::Request { op, args, .. } = gmem::Request::from_bytes(&bytes);
            let changes = match op {
                gmem::op::COPY => Some(args[0]),
                gmem::op::ADVISE if matches!(args[2], advice::FREE | advice::PIN) => Some(args[0]),
                _ => None,
            };
            assert!(
                changes.is_none_or(|at| harmless(arena, at)),
                "{op} {args:x?}"
            );
            assert!(op != gmem::op::CAP || args[0] == u64::MAX);
            if let Some(seen) = seen.get_mut(op as usize) {
                *seen += 1;
            }
        }
    });
    assert!(seen[1..].iter().all(|count| *count > 10), "{seen:?}");
}
