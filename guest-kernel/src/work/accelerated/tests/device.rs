//! Accelerators and a virtio-gmem, each with a thread of its own, behind the registers that a machine shows.

use super::commands::{Verdict, execute};
use crate::extent::Extent;
use crate::virtio::registers::*;
use gmem_wire::{gmem, xpu};
use std::sync::{Condvar, Mutex};
use std::vec::Vec;

/// What a device does with its command number so-and-so, the measurement's not counted.
pub(super) type Mood<'a> = &'a (dyn Fn(usize, u64, &xpu::Request) -> Verdict + Sync);

/// Local memory of an accelerator, as it says.
pub(super) const MEMORY: u64 = 1 << 20;
/// The first accelerator's node.
pub(super) const NODE: u32 = 3;
/// To a virtio-gmem no node; those after it are full.
pub(super) const ABSENT: u32 = 50;
/// The most that it can be asked about at once.
pub(super) const LARGEST: u64 = 1 << 20;
const QUEUES: usize = 2;

#[derive(Clone, Copy, Default)]
struct Ring {
    size: u16,
    ready: bool,
    places: [u64; 3],
    seen: u16,
    answered: u16,
}

#[derive(Default)]
struct State {
    status: u32,
    select: usize,
    half: u32,
    features: u64,
    rings: [Ring; QUEUES],
    kicked: bool,
    ended: bool,
    /// Commands so far that are counted.
    count: u64,
    /// It answers no more.
    silent: bool,
}

/// A device.
pub(super) struct Device<'a> {
    id: u32,
    number: usize,
    streams: usize,
    ram: Extent<'a>,
    mood: Mood<'a>,
    /// What a virtio-gmem was asked.
    pub(super) asked: Mutex<Vec<gmem::Request>>,
    state: Mutex<State>,
    bell: Condvar,
}

impl<'a> Device<'a> {
    /// Accelerator `number`, or the virtio-gmem.
    pub(super) fn new(
        id: u32,
        number: usize,
        streams: usize,
        ram: Extent<'a>,
        mood: Mood<'a>,
    ) -> Self {
        Self {
            id,
            number,
            streams,
            ram,
            mood,
            asked: Mutex::default(),
            state: Mutex::default(),
            bell: Condvar::new(),
        }
    }

    pub(super) fn read(&self, offset: u64) -> u64 {
        let state = self.state.lock().unwrap();
        u64::from(match offset {
            MAGIC => MAGIC_VALUE,
            DEVICE_ID => self.id,
            DEVICE_FEATURES => [1, 1][state.half as usize % 2],
            QUEUE_NUM_MAX => 128,
            QUEUE_READY => u32::from(state.rings[state.select].ready),
            STATUS => state.status,
            CONFIG.. => self.config(offset - CONFIG),
            _ => 0,
        })
    }

    fn config(&self, offset: u64) -> u32 {
        use gmem_wire::gmem::config as door;
        use gmem_wire::xpu::config;
        match (self.id, offset) {
            (xpu::ID, config::STREAMS) => self.streams as u32,
            (xpu::ID, config::MEMORY) => MEMORY as u32,
            (xpu::ID, config::GRANULE) => 4096,
            (xpu::ID, config::NODE) => NODE + self.number as u32,
            (gmem::ID, door::LARGEST) => LARGEST as u32,
            _ => 0,
        }
    }

    pub(super) fn write(&self, offset: u64, value: u64) {
        let mut state = self.state.lock().unwrap();
        let select = state.select;
        let (low, half) = (value as u32, state.half);
        let place = |ring: &mut Ring, part: usize, offset: u64| {
            let shift = offset * 8;
            ring.places[part] &= !(u64::from(u32::MAX) << shift);
            ring.places[part] |= u64::from(low) << shift;
        };
        match offset {
            DEVICE_FEATURES_SEL | DRIVER_FEATURES_SEL => state.half = low,
            DRIVER_FEATURES => state.features |= u64::from(low) << (32 * (half % 2)),
            QUEUE_SEL => state.select = (low as usize).min(QUEUES - 1),
            QUEUE_NUM => state.rings[select].size = low as u16,
            QUEUE_READY => state.rings[select].ready = low == 1,
            QUEUE_NOTIFY => {
                assert!((low as usize) < QUEUES && state.rings[low as usize].ready);
                state.kicked = true;
                self.bell.notify_all();
            }
            STATUS if low == 0 => {
                let (count, silent) = (state.count, state.silent);
                *state = State {
                    count,
                    silent,
                    ..State::default()
                };
            }
            STATUS => state.status = low,
            QUEUE_DESC.. if offset < QUEUE_DRIVER => {
                place(&mut state.rings[select], 0, offset - QUEUE_DESC);
            }
            QUEUE_DRIVER.. if offset < QUEUE_DEVICE => {
                place(&mut state.rings[select], 1, offset - QUEUE_DRIVER);
            }
            QUEUE_DEVICE.. if offset < QUEUE_DEVICE + 8 => {
                place(&mut state.rings[select], 2, offset - QUEUE_DEVICE);
            }
            _ => panic!("a driver by the rules writes no {value:#x} to {offset:#x}"),
        }
    }

    /// Does what it is asked for until [`Device::end`].
    pub(super) fn serve(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.ended {
            if !core::mem::take(&mut state.kicked) {
                state = self.bell.wait(state).unwrap();
                continue;
            }
            for queue in 0..QUEUES {
                while self.one(&mut state, queue) {}
            }
        }
    }

    pub(super) fn end(&self) {
        self.state.lock().unwrap().ended = true;
        self.bell.notify_all();
    }

    /// One request; whether there was one.
    fn one(&self, state: &mut State, queue: usize) -> bool {
        let Ring {
            size,
            ready,
            places: [table, avail, used],
            seen,
            answered,
        } = state.rings[queue];
        if !ready || state.silent || self.ram.get16(avail + 2) == seen {
            return false;
        }
        assert_ne!(state.features & VERSION_1, 0);
        let head = self.ram.get16(avail + 4 + 2 * u64::from(seen % size));
        let descriptor = |index: u16| {
            let at = table + 16 * u64::from(index);
            (self.ram.get64(at), self.ram.get64(at + 8))
        };
        let (request, rest) = descriptor(head);
        let (response, room) = descriptor((rest >> 48) as u16);
        let answer = self.answer(state, self.bytes(request, rest as u32));
        let Some(answer) = answer else {
            state.silent = true;
            return false;
        };
        assert!(answer.len() <= room as u32 as usize);
        self.ram.put(response, &answer);
        let element = used + 4 + 8 * u64::from(answered % size);
        self.ram.put(element, &u32::from(head).to_le_bytes());
        let len = (answer.len() as u32).to_le_bytes();
        self.ram.put(element + 4, &len);
        self.ram.put16(used + 2, answered.wrapping_add(1));
        let ring = &mut state.rings[queue];
        ring.seen = seen.wrapping_add(1);
        ring.answered = answered.wrapping_add(1);
        true
    }

    fn bytes(&self, at: u64, len: u32) -> Vec<u8> {
        (at..at + u64::from(len))
            .map(|at| self.ram.get8(at))
            .collect()
    }

    fn answer(&self, state: &mut State, request: Vec<u8>) -> Option<Vec<u8>> {
        if self.id == gmem::ID {
            let request = gmem::Request::from_bytes(request[..].try_into().unwrap());
            self.asked.lock().unwrap().push(request);
            return Some(door(&request).to_bytes().to_vec());
        }
        let request = xpu::Request::from_bytes(request[..].try_into().unwrap()).unwrap();
        // The measurement adds nothing, again and again.
        let counts = request.op != xpu::op::NOP
            && (request.op != xpu::op::ATOMIC_ADD || request.args[1] != 0);
        state.count += u64::from(counts);
        let verdict = match counts {
            true => (self.mood)(self.number, state.count, &request),
            false => Verdict::Obey,
        };
        let response = execute(&self.ram, &request, verdict)?;
        Some(response.to_bytes().to_vec())
    }
}

/// The virtio-gmem: says that a quarter of everything is in each accelerator.
fn door(request: &gmem::Request) -> gmem::Response {
    let [_, len, _] = request.args;
    let values = match request.op {
        gmem::op::NODE => [gmem::kind::HBM, MEMORY, 0, 0],
        gmem::op::WHERE => [len / 4, 0, 0, 0],
        _ => [0; 4],
    };
    let status = match request.node {
        ..ABSENT => gmem::status::OK,
        ABSENT => gmem::status::INVALID,
        _ => gmem::status::NO_MEMORY,
    };
    gmem::Response { status, values }
}
