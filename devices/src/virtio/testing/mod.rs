//! A driver by hand: what a device's tests put before it.
//!
//! [`Bench`] stands where the transport stands: it holds a device, its queues and a little guest memory, puts
//! requests into the rings as a driver does, and calls the device in the test's own thread. The guest's memory
//! lies between guards; whoever writes beside it fails the test when the bench is dropped.

#![cfg_attr(fuzzing, allow(dead_code, reason = "fuzzers use a part of it"))]

#[cfg(test)]
mod attack;
mod memory;
#[cfg(test)]
mod registers;
mod ring;

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[cfg(test)]
pub(crate) use attack::{Shape, attacks, attacks_like};
pub(crate) use memory::{BUFFERS, BUFFERS_END, TestMemory};
#[cfg(test)]
pub(crate) use registers::Registers;
pub(crate) use ring::Ring;

use super::device::{Broken, Device};
use super::guest::Guest;
use super::interrupt::Interrupt;

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
        self.rings = Ring::all(self.device.queue_sizes());
        self.queues = (self.rings.iter())
            .map(|ring| {
                ring.clear(&self.memory);
                let [table, avail, used] = ring.addresses().map(|at| Some(at as u32));
                let mut queue = Queue::new(ring.size()).unwrap();
                queue.set_desc_table_address(table, None);
                queue.set_avail_ring_address(avail, None);
                queue.set_used_ring_address(used, None);
                queue.set_event_idx(true);
                queue.set_ready(true);
                queue
            })
            .collect();
    }

    /// Calls the device, as the transport does.
    pub(crate) fn with<R>(&mut self, call: impl FnOnce(&mut D, &mut Guest<'_>) -> R) -> R {
        let mut guest = Guest::new(&*self.memory, &mut self.queues, &self.interrupt);
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
}

impl<D: Device> Drop for Bench<D> {
    fn drop(&mut self) {
        self.device.reset();
        if !std::thread::panicking() {
            self.memory.check_guards();
        }
    }
}
