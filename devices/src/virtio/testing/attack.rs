//! A driver that follows no rule.

use std::time::Duration;

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;

use super::Bench;
use super::memory::{BUFFERS, BUFFERS_END, REGIONS, RINGS};
use crate::virtio::{Broken, Device};

impl<D: Device> Bench<D> {
    /// Plays a driver that follows no rule, and resets the device when it has broken it; how often it has.
    pub(crate) fn attack(&mut self, attack: &Attack) -> usize {
        for (queue, offset, word) in &attack.patches {
            let ring = &self.rings[queue % self.rings.len()];
            let [table, ..] = ring.addresses();
            self.memory.put_value(table + offset % (RINGS - 4), *word);
        }
        let features = self.device.features();
        let mut broken = 0;
        for step in &attack.steps {
            if self.attack_once(step).is_err() {
                broken += 1;
                self.device.reset();
                self.set_up();
                self.start(features).unwrap();
            }
        }
        broken
    }

    fn attack_once(&mut self, step: &Step) -> Result<(), Broken> {
        let number = step.queue % self.rings.len();
        let ring = &mut self.rings[number];
        let head = step.head % (ring.size() + 2);
        for (index, buffer) in step.buffers.iter().enumerate() {
            let place = (head + index as u16) % ring.size();
            let last = index + 1 == step.buffers.len();
            let mut flags = if last { 0 } else { VRING_DESC_F_NEXT };
            flags |= u32::from(buffer.writable) * VRING_DESC_F_WRITE;
            let right = (flags as u16, (place + 1) % ring.size());
            let (flags, next) = buffer.wrong.unwrap_or(right);
            let descriptor = Descriptor::new(buffer.gpa, buffer.len, flags, next);
            ring.describe(&self.memory, place, descriptor);
        }
        ring.offer(&self.memory, head);
        if let Some(index) = step.avail_index {
            ring.set_avail_index(&self.memory, index);
        }
        self.notify(number)?;
        if step.poll {
            self.serve_sources(Duration::ZERO)?;
        }
        Ok(())
    }
}

/// What a hostile driver does.
#[derive(Clone, Debug)]
pub(crate) struct Attack {
    /// Words written into the rings first: queue, offset, value.
    patches: Vec<(usize, u64, u32)>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
struct Step {
    queue: usize,
    head: u16,
    buffers: Vec<Buffer>,
    avail_index: Option<u16>,
    poll: bool,
}

#[derive(Clone, Debug)]
struct Buffer {
    gpa: u64,
    len: u32,
    writable: bool,
    /// Flags and next descriptor, where they are not what they should be.
    wrong: Option<(u16, u16)>,
}

/// Length of a buffer, and whether the device writes it.
pub(crate) type Shape = &'static [(u32, bool)];

/// Attacks of all kinds.
pub(crate) fn attacks() -> impl Strategy<Value = Attack> {
    attacks_like(&[&[(16, false)], &[(64, true)]])
}

/// Attacks of all kinds, many of them with requests of `shapes`, so that they come far.
pub(crate) fn attacks_like(shapes: &'static [Shape]) -> impl Strategy<Value = Attack> {
    let len = prop_oneof![
        2 => Just(16u32),
        2 => Just(1u32),
        2 => (0..16u32).prop_map(|blocks| blocks * 512),
        2 => 0..70_000u32,
        1 => any::<u32>(),
    ];
    let random = prop::collection::vec((len, any::<bool>()), 0..6);
    let shape = prop_oneof![
        3 => prop::sample::select(shapes).prop_map(<[_]>::to_vec),
        1 => random.clone(),
        // Readable buffers first, as it should be.
        1 => random.prop_map(|mut shape| {
            shape.sort_by_key(|(_, writable)| *writable);
            shape
        }),
    ];
    let buffers = shape.prop_flat_map(|shape| shape.into_iter().map(buffer).collect::<Vec<_>>());
    let step = (
        0..8usize,
        any::<u16>(),
        buffers,
        prop::option::weighted(0.03, any::<u16>()),
        any::<bool>(),
    )
        .prop_map(|(queue, head, buffers, avail_index, poll)| Step {
            queue,
            // Heads beyond the table are rare, not unknown.
            head: if head % 64 == 0 { head } else { head % 64 },
            buffers,
            avail_index,
            poll,
        });
    (
        prop::collection::vec((0..8usize, any::<u64>(), any::<u32>()), 0..3),
        prop::collection::vec(step, 1..24),
    )
        .prop_map(|(patches, steps)| Attack { patches, steps })
}

/// A buffer of a shape, almost always in memory, almost always as it should be.
fn buffer((len, writable): (u32, bool)) -> impl Strategy<Value = Buffer> {
    let gpa = prop_oneof![
        40 => (BUFFERS..BUFFERS_END - 0x2000).prop_map(|gpa| gpa & !0xf),
        4 => BUFFERS..BUFFERS_END,
        1 => RINGS..BUFFERS,
        4 => (prop::sample::select(&REGIONS[..]), 0..2048u64)
            .prop_map(|((base, len), back)| base + len as u64 - back),
        1 => any::<u64>(),
    ];
    let flags = prop_oneof![
        Just(VRING_DESC_F_NEXT as u16),
        Just(VRING_DESC_F_WRITE as u16),
        Just(VRING_DESC_F_INDIRECT as u16),
        any::<u16>(),
    ];
    let wrong = prop::option::weighted(0.03, (flags, any::<u16>()));
    (gpa, wrong).prop_map(move |(gpa, wrong)| Buffer {
        gpa,
        len,
        writable,
        wrong,
    })
}
