//! Driver of a virtio-gmem: the door to the memory system.

use crate::clock::cycles;
use crate::extent::Extent;
use crate::virtio::queue::{Places, Queue};
use crate::virtio::registers::Registers;
use crate::virtio::{self, Fault};
use crate::work::Machine;
use core::hint::spin_loop;
use gmem_wire::gmem::{REQUEST_SIZE, RESPONSE_SIZE, Request, Response, config, op, queue, status};

/// Memory of the driver, bytes.
pub const BYTES: u64 = 0x2000;

const DESCRIPTORS: u16 = 4;
/// That the device has.
const QUEUES: usize = 3;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x800;
const REQUEST: u64 = 0x1000;
const RESPONSE: u64 = 0x1040;

/// The door.
pub struct Gmem<'a, M> {
    registers: Registers<'a, M>,
    ram: Extent<'a>,
    queue: Queue,
    area: u64,
    patience: u64,
    /// The most that one request may be about, bytes.
    largest: u64,
}

/// What is said of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// See [`gmem_wire::gmem::kind`].
    pub kind: u64,
    /// Bytes that it holds.
    pub capacity: u64,
    /// Bytes of these in use.
    pub used: u64,
    /// The most that was in use.
    pub peak: u64,
}

impl<'a, M: Machine> Gmem<'a, M> {
    /// Makes device `number` ready, whose driver's memory, [`BYTES`] in `ram`, begins at `area`. It may take `patience`
    /// cycles for a request.
    ///
    /// # Errors
    ///
    /// What is wrong with the device.
    pub fn start(
        machine: &'a M,
        number: usize,
        place: (Extent<'a>, u64),
        patience: u64,
    ) -> Result<Self, Fault> {
        // Without events: nobody here would listen.
        Self::start_with(machine, number, place, patience, (0, &mut []))
    }

    /// The same, with `features` if the device has them, and more queues: those after the one of requests, in memory that is
    /// zero.
    ///
    /// # Errors
    ///
    /// What is wrong with the device.
    pub fn start_with(
        machine: &'a M,
        number: usize,
        (ram, area): (Extent<'a>, u64),
        patience: u64,
        (features, more): (u64, &mut [Queue]),
    ) -> Result<Self, Fault> {
        let registers = Registers::new(machine, number);
        registers.reset();
        ram.clear(area..area + BYTES);
        let places = Places {
            table: area,
            avail: area + AVAIL,
            used: area + USED,
        };
        let mut queues = [Queue::new(places, DESCRIPTORS); QUEUES];
        let count = (1 + more.len()).min(QUEUES);
        queues[1..count].copy_from_slice(more);
        virtio::start(&registers, features, &mut queues[..count], &ram)?;
        more.copy_from_slice(&queues[1..count]);
        let largest = registers.config(config::LARGEST);
        if largest == 0 {
            return Err("a largest request of nothing");
        }
        let [queue, ..] = queues;
        Ok(Self {
            registers,
            ram,
            queue,
            area,
            patience,
            largest,
        })
    }

    /// Sends a request and waits for its answer, whatever it is.
    ///
    /// # Errors
    ///
    /// The device does not keep to the rules, or to the time.
    pub fn ask(&mut self, request: Request) -> Result<Response, Fault> {
        let (at, back) = (self.area + REQUEST, self.area + RESPONSE);
        self.ram.put_words(at, &request.to_bytes());
        self.ram.put_words(back, &[0xff; RESPONSE_SIZE]);
        let buffers = [
            (at, REQUEST_SIZE as u32, false),
            (back, RESPONSE_SIZE as u32, true),
        ];
        self.queue.offer(&self.ram, 0, &buffers);
        self.registers.notify(queue::REQUESTS as u32);
        let start = cycles();
        loop {
            if let Some(answer) = self.queue.answer(&self.ram) {
                if answer != (0, RESPONSE_SIZE as u32) {
                    return Err("an answer that is not the request's, or not 40 bytes long");
                }
                let mut bytes = [0; RESPONSE_SIZE];
                self.ram.get_words(back, &mut bytes);
                return Ok(Response::from_bytes(&bytes));
            }
            if cycles().saturating_sub(start) > self.patience {
                return Err(match self.registers.needs_reset() {
                    true => "a request by the rules broke the device",
                    false => "a request was not answered in 60 seconds",
                });
            }
            spin_loop();
        }
    }

    /// Gives advice about a range. False if not all of it could be done: there was no room, a page is pinned, or the
    /// node cannot do that.
    ///
    /// # Errors
    ///
    /// As for [`Gmem::ask`]; the advice makes no sense to the device, or it failed.
    pub fn advise(
        &mut self,
        node: u32,
        address: u64,
        len: u64,
        advice: u64,
    ) -> Result<bool, Fault> {
        let mut all = true;
        self.in_parts(len, |gmem, done, part| {
            let args = [address + done, part, advice];
            let op = op::ADVISE;
            all &= gmem.done(Request { op, node, args })?.is_some();
            Ok(())
        })?;
        Ok(all)
    }

    /// Copies, wherever both ranges are; the copy then is in `node`. False if not all of it could be done.
    ///
    /// # Errors
    ///
    /// As for [`Gmem::advise`].
    pub fn copy(&mut self, node: u32, to: u64, from: u64, len: u64) -> Result<bool, Fault> {
        let mut all = true;
        self.in_parts(len, |gmem, done, part| {
            let args = [to + done, from + done, part];
            let op = op::COPY;
            all &= gmem.done(Request { op, node, args })?.is_some();
            Ok(())
        })?;
        Ok(all)
    }

    /// What there is to say of a node; none if the device does not say it.
    ///
    /// # Errors
    ///
    /// As for [`Gmem::advise`].
    pub fn node(&mut self, node: u32) -> Result<Option<Node>, Fault> {
        let args = [0; 3];
        let op = op::NODE;
        let response = self.done(Request { op, node, args })?;
        Ok(response.map(|Response { values, .. }| Node {
            kind: values[0],
            capacity: values[1],
            used: values[2],
            peak: values[3],
        }))
    }

    /// How many bytes of a range are in a node.
    ///
    /// # Errors
    ///
    /// As for [`Gmem::advise`].
    pub fn bytes_in(&mut self, node: u32, address: u64, len: u64) -> Result<u64, Fault> {
        let mut bytes = 0;
        self.in_parts(len, |gmem, done, part| {
            let args = [address + done, part, 0];
            let op = op::WHERE;
            let response = gmem.done(Request { op, node, args })?;
            bytes += response.map_or(0, |response| response.values[0]);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Resets the device.
    pub fn stop(&self) {
        self.registers.reset();
    }

    /// Cuts `len` bytes into parts that one request may be about, and calls `each` with what lies before and how much it is.
    fn in_parts(
        &mut self,
        len: u64,
        mut each: impl FnMut(&mut Self, u64, u64) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let part = self.largest.min(len - done);
            each(self, done, part)?;
            done += part;
        }
        Ok(())
    }

    /// The response if the request was carried out, none if it could not be.
    fn done(&mut self, request: Request) -> Result<Option<Response>, Fault> {
        let response = self.ask(request)?;
        match response.status {
            status::OK => Ok(Some(response)),
            status::NO_MEMORY | status::PINNED | status::UNSUPPORTED => Ok(None),
            status::INVALID => Err("a request makes no sense to it"),
            status::FAULT => Err("a range is not memory to it"),
            status::DEVICE => Err("it failed"),
            _ => Err("a request ended with a status that is none"),
        }
    }
}
