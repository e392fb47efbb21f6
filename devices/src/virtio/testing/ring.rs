//! The driver's side of a queue.

use std::collections::HashMap;

use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::Used;
use super::memory::{BUFFERS, RINGS, TestMemory};
use crate::virtio::DeviceMemory;

/// The driver's side of a queue.
pub(crate) struct Ring {
    size: u16,
    table: u64,
    avail: u64,
    used: u64,
    added: u16,
    seen: u16,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl Ring {
    /// The rings of queues of these sizes.
    pub(crate) fn all(sizes: &[u16]) -> Vec<Self> {
        let rings = sizes.iter().enumerate();
        let rings: Vec<Self> = rings
            .map(|(number, size)| Self::new(number, *size))
            .collect();
        assert!(rings.iter().all(|ring| ring.end() <= BUFFERS));
        rings
    }

    fn new(number: usize, size: u16) -> Self {
        let table = RINGS * (number as u64 + 1);
        let avail = table + 16 * u64::from(size);
        Self {
            size,
            table,
            avail,
            used: (avail + 6 + 2 * u64::from(size)).next_multiple_of(4),
            added: 0,
            seen: 0,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
        }
    }

    /// Addresses of the descriptor table, the available ring and the used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [self.table, self.avail, self.used]
    }

    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    fn end(&self) -> u64 {
        self.used + 6 + 8 * u64::from(self.size)
    }

    /// Empties the rings in memory.
    pub(crate) fn clear(&self, memory: &TestMemory) {
        memory.put(self.table, &vec![0; (self.end() - self.table) as usize]);
    }

    /// Sets the available ring's index, whatever is in it.
    pub(crate) fn set_avail_index(&self, memory: &TestMemory, index: u16) {
        memory.put_value(self.avail + 2, index);
    }

    /// Writes descriptor `index` of the table.
    pub(crate) fn describe(&self, memory: &TestMemory, index: u16, descriptor: Descriptor) {
        memory.put_value(self.table + 16 * u64::from(index), descriptor);
    }

    /// Puts `head` into the available ring.
    pub(crate) fn offer(&mut self, memory: &TestMemory, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.added % self.size);
        memory.put_value(slot, head);
        self.added = self.added.wrapping_add(1);
        memory.put_value(self.avail + 2, self.added);
    }

    /// Puts buffers into the ring as one request.
    pub(crate) fn send(&mut self, memory: &TestMemory, buffers: &[(u64, u32, bool)]) -> u16 {
        let chain: Vec<u16> = buffers.iter().map(|_| self.free.pop().unwrap()).collect();
        for (place, (gpa, len, writable)) in buffers.iter().enumerate() {
            let next = chain.get(place + 1).copied();
            let mut flags = if *writable { VRING_DESC_F_WRITE } else { 0 };
            flags |= next.map_or(0, |_| VRING_DESC_F_NEXT);
            let descriptor = Descriptor::new(*gpa, *len, flags as u16, next.unwrap_or(0));
            self.describe(memory, chain[place], descriptor);
        }
        let head = chain[0];
        self.chains.insert(head, chain);
        self.offer(memory, head);
        head
    }

    /// Takes what came back.
    pub(crate) fn used(&mut self, memory: &TestMemory) -> Vec<Used> {
        let mut all = Vec::new();
        while self.seen != memory.u16_at(self.used + 2) {
            let at = self.used + 4 + 8 * u64::from(self.seen % self.size);
            let [head, written]: [u32; 2] = memory.view().read_obj(GuestAddress(at)).unwrap();
            let head = head as u16;
            self.free
                .extend(self.chains.remove(&head).into_iter().flatten());
            self.seen = self.seen.wrapping_add(1);
            // Hear of the next one.
            memory.put_value(self.avail + 4 + 2 * u64::from(self.size), self.seen);
            all.push(Used { head, written });
        }
        all
    }
}
