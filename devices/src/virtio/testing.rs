//! A driver by hand: what a device's tests put before it.
//!
//! [`Bench`] stands where the transport stands: it holds a device, its queues and a little guest memory, puts
//! requests into the rings as a driver does, and calls the device in the test's own thread. The guest's memory
//! lies between guards; whoever writes beside it fails the test when the bench is dropped.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::mmap::MmapRegion;
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, VolatileMemory,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Broken, Device};
use super::guest::Guest;
use super::interrupt::Interrupt;
use super::memory::DeviceMemory;

/// Guest-physical address and size of each region. The first two touch each other for the guest, not in the host.
pub(crate) const REGIONS: [(u64, usize); 3] =
    [(0, 1 << 20), (1 << 20, 1 << 20), (3 << 20, 1 << 20)];
/// Guard around each region, bytes.
const GUARD: usize = 64 << 10;
const GUARD_BYTE: u8 = 0x5a;
/// Where the rings of queue 0 are; those of the next queue follow after as much again.
pub(crate) const RINGS: u64 = 0x8000;
/// Where buffers begin.
pub(crate) const BUFFERS: u64 = 0x8_0000;
/// Where buffers end.
pub(crate) const BUFFERS_END: u64 = 2 << 20;

/// Memory of a guest, between guards.
pub(crate) struct TestMemory {
    view: GuestMemoryMmap,
    host: MmapRegion,
    /// What the device freed: addresses and lengths.
    pub(crate) freed: Mutex<Vec<(u64, u64)>>,
}

impl TestMemory {
    pub(crate) fn new() -> Arc<Self> {
        let total = GUARD + REGIONS.iter().map(|(_, len)| len + GUARD).sum::<usize>();
        let host = MmapRegion::new(total).unwrap();
        let all = host.get_slice(0, total).unwrap();
        all.write(&vec![GUARD_BYTE; total], 0).unwrap();
        let mut at = GUARD;
        let regions = REGIONS.map(|(base, len)| {
            all.write(&vec![0; len], at).unwrap();
            // SAFETY: the range lies within `host`, which is dropped after the regions.
            let mapping = unsafe {
                MmapRegion::build_raw(host.as_ptr().add(at), len, host.prot(), host.flags())
            };
            at += len + GUARD;
            GuestRegionMmap::new(mapping.unwrap(), GuestAddress(base)).unwrap()
        });
        Arc::new(Self {
            view: GuestMemoryMmap::from_regions(regions.into()).unwrap(),
            host,
            freed: Mutex::default(),
        })
    }

    /// Fails if somebody wrote beside the guest's memory.
    pub(crate) fn check_guards(&self) {
        let mut guard = vec![0; GUARD];
        let mut at = 0;
        for len in REGIONS.iter().map(|(_, len)| *len).chain([0]) {
            let slice = self.host.get_slice(at, GUARD).unwrap();
            slice.copy_to(&mut guard);
            assert!(
                guard.iter().all(|byte| *byte == GUARD_BYTE),
                "somebody wrote beside the guest's memory"
            );
            at += GUARD + len;
        }
    }

    pub(crate) fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.view.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    pub(crate) fn put(&self, gpa: u64, bytes: &[u8]) {
        self.view.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    fn put_value<T: ByteValued>(&self, gpa: u64, value: T) {
        self.put(gpa, value.as_slice());
    }

    fn u16_at(&self, gpa: u64) -> u16 {
        self.view.read_obj(GuestAddress(gpa)).unwrap()
    }
}

impl DeviceMemory for TestMemory {
    fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }

    fn free(&self, gpa: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; len as usize];
        self.view
            .write_slice(&zeros, GuestAddress(gpa))
            .map_err(io::Error::other)?;
        self.freed.lock().unwrap().push((gpa, len));
        Ok(())
    }
}

/// One buffer of a request.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Bytes that the device reads.
    Out(Vec<u8>),
    /// As many bytes that the device writes.
    In(u32),
}

/// A request in a ring.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) head: u16,
    /// Guest-physical address and length of each part.
    pub(crate) parts: Vec<(u64, u32)>,
}

/// A request that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) head: u16,
    pub(crate) written: u32,
}

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
            let [head, written]: [u32; 2] = memory.view.read_obj(GuestAddress(at)).unwrap();
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

/// A device with its driver.
pub(crate) struct Bench<D: Device> {
    pub(crate) device: D,
    pub(crate) memory: Arc<TestMemory>,
    pub(crate) rings: Vec<Ring>,
    queues: Vec<Queue>,
    interrupt: Interrupt,
    line: EventFd,
    next_buffer: u64,
}

impl<D: Device> Bench<D> {
    /// A driver that has set up every queue at its largest size, and has not said that it is ready.
    pub(crate) fn new(device: D) -> Self {
        Self::over(TestMemory::new(), device)
    }

    /// The same, for a device that was made with its memory.
    pub(crate) fn over(memory: Arc<TestMemory>, device: D) -> Self {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut bench = Self {
            interrupt: Interrupt::new(line.try_clone().unwrap()),
            line,
            memory,
            rings: Vec::new(),
            queues: Vec::new(),
            next_buffer: BUFFERS,
            device,
        };
        bench.set_up();
        bench
    }

    /// A bench whose driver is ready with all features that the device offers.
    pub(crate) fn started(device: D) -> Self {
        let mut bench = Self::new(device);
        bench.start(bench.device.features()).unwrap();
        bench
    }

    /// Fresh rings, as after a reset.
    pub(crate) fn set_up(&mut self) {
        let sizes = self.device.queue_sizes();
        self.rings = (sizes.iter().enumerate())
            .map(|(number, size)| Ring::new(number, *size))
            .collect();
        assert!(
            self.rings
                .iter()
                .all(|ring| ring.used + 6 + 8 * u64::from(ring.size) <= BUFFERS)
        );
        self.queues = (self.rings.iter())
            .map(|ring| {
                self.memory.put(ring.table, &vec![0; RINGS as usize]);
                let mut queue = Queue::new(ring.size).unwrap();
                queue.set_desc_table_address(Some(ring.table as u32), None);
                queue.set_avail_ring_address(Some(ring.avail as u32), None);
                queue.set_used_ring_address(Some(ring.used as u32), None);
                queue.set_event_idx(true);
                queue.set_ready(true);
                queue
            })
            .collect();
    }

    /// Calls the device, as the transport does.
    pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut D, &mut Guest<'_>) -> R) -> R {
        let mut guest = Guest::new(self.memory.view(), &mut self.queues, &self.interrupt);
        call(&mut self.device, &mut guest)
    }

    /// The driver is ready.
    pub(crate) fn start(&mut self, features: u64) -> Result<(), Broken> {
        self.with(|device, guest| device.start(features, guest))
    }

    /// The driver notifies `queue`.
    pub(crate) fn notify(&mut self, queue: usize) -> Result<(), Broken> {
        self.with(|device, guest| device.notified(queue, guest))
    }

    /// `source` is readable.
    pub(crate) fn ready(&mut self, source: usize) -> Result<(), Broken> {
        self.with(|device, guest| device.ready(source, guest))
    }

    /// Room for a buffer in guest memory.
    pub(crate) fn buffer(&mut self, len: u32) -> u64 {
        if self.next_buffer + u64::from(len) > BUFFERS_END {
            self.next_buffer = BUFFERS;
        }
        let gpa = self.next_buffer;
        assert!(
            gpa + u64::from(len) <= BUFFERS_END,
            "no room for {len} bytes"
        );
        self.next_buffer += u64::from(len);
        gpa
    }

    /// Puts a request into `queue`, without telling the device. A part for the device to write is filled with
    /// 0xee first.
    pub(crate) fn send(&mut self, queue: usize, parts: &[Part]) -> Sent {
        let buffers: Vec<(u64, u32, bool)> = (parts.iter())
            .map(|part| {
                let (bytes, writable) = match part {
                    Part::Out(bytes) => (bytes.clone(), false),
                    Part::In(len) => (vec![0xee; *len as usize], true),
                };
                let gpa = self.buffer(bytes.len() as u32);
                self.memory.put(gpa, &bytes);
                (gpa, bytes.len() as u32, writable)
            })
            .collect();
        Sent {
            head: self.rings[queue].send(&self.memory, &buffers),
            parts: buffers.iter().map(|(gpa, len, _)| (*gpa, *len)).collect(),
        }
    }

    /// What came back from `queue` since the last call.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<Used> {
        self.rings[queue].used(&self.memory)
    }

    /// The bytes of part `part` of a request.
    pub(crate) fn part(&self, sent: &Sent, part: usize) -> Vec<u8> {
        let (gpa, len) = sent.parts[part];
        self.memory.bytes(gpa, len as usize)
    }

    /// Whether the driver was interrupted since the last call.
    pub(crate) fn interrupted(&self) -> bool {
        self.line.read().is_ok()
    }

    /// Serves the device's sources for as long as `until` says no, at most 10 seconds.
    pub(crate) fn serve_until(
        &mut self,
        mut until: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Broken> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !until(self) {
            assert!(Instant::now() < deadline, "nothing happened for 10 seconds");
            self.serve_sources(Duration::from_millis(20))?;
        }
        Ok(())
    }

    /// Waits for the device's sources, at most `limit`, and serves those that are ready.
    pub(crate) fn serve_sources(&mut self, limit: Duration) -> Result<(), Broken> {
        let mut polled: Vec<libc::pollfd> = (self.device.sources().iter().enumerate())
            .map(|(source, fd)| libc::pollfd {
                fd: if self.device.wants(source) { *fd } else { -1 },
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: the pointer and the count are those of one vector, which lives through the call.
        unsafe {
            libc::poll(
                polled.as_mut_ptr(),
                polled.len() as libc::nfds_t,
                limit.as_millis() as libc::c_int,
            )
        };
        for (source, fd) in polled.iter().enumerate() {
            if fd.revents != 0 {
                self.ready(source)?;
            }
        }
        Ok(())
    }

    /// Plays a driver that follows no rule, and resets the device when it has broken it; how often it has.
    pub(crate) fn attack(&mut self, attack: &Attack) -> usize {
        for (queue, offset, word) in &attack.patches {
            let ring = &self.rings[queue % self.rings.len()];
            self.memory
                .put_value(ring.table + offset % (RINGS - 4), *word);
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
        let head = step.head % (ring.size + 2);
        for (index, buffer) in step.buffers.iter().enumerate() {
            let place = (head + index as u16) % ring.size;
            let last = index + 1 == step.buffers.len();
            let mut flags = if last { 0 } else { VRING_DESC_F_NEXT };
            flags |= u32::from(buffer.writable) * VRING_DESC_F_WRITE;
            let right = (flags as u16, (place + 1) % ring.size);
            let (flags, next) = buffer.wrong.unwrap_or(right);
            let descriptor = Descriptor::new(buffer.gpa, buffer.len, flags, next);
            ring.describe(&self.memory, place, descriptor);
        }
        ring.offer(&self.memory, head);
        if let Some(index) = step.avail_index {
            self.memory.put_value(ring.avail + 2, index);
        }
        self.notify(number)?;
        if step.poll {
            self.serve_sources(Duration::ZERO)?;
        }
        Ok(())
    }
}

impl<D: Device> Drop for Bench<D> {
    fn drop(&mut self) {
        self.device.reset();
        if !std::thread::panicking() {
            self.memory.check_guards();
        }
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
