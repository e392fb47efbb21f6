//! The queue of a virtio-gmem through which a guest lends memory: calls come in, answers go out.

use super::gmem::Gmem;
use crate::extent::Extent;
use crate::virtio::Fault;
use crate::virtio::queue::{Places, Queue};
use crate::virtio::registers::Registers;
use crate::work::Machine;
use gmem_wire::gmem::{Call, feature, queue};

/// Chains: calls that may be under way at once.
pub const CHAINS: u16 = 4;
/// Memory of the driver, bytes.
pub const BYTES: u64 = BUFFERS + CHAINS as u64 * 2 * Call::ROOM as u64;

const AVAIL: u64 = 0x200;
const USED: u64 = 0x400;
/// Of the queue of events, which stays empty.
const EVENTS: u64 = 0x800;
const BUFFERS: u64 = 0x1000;

/// The queue, and the door beside it.
pub struct Calls<'a, M> {
    /// The door.
    pub gmem: Gmem<'a, M>,
    registers: Registers<'a, M>,
    ram: Extent<'a>,
    queue: Queue,
    area: u64,
}

/// A call that has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The chain that it came in, which is to be [posted](Calls::post) again.
    pub chain: u16,
    /// How it begins.
    pub call: Call,
    /// Where it lies.
    pub at: u64,
    /// Where its answer is to lie.
    pub answer_at: u64,
}

impl<'a, M: Machine> Calls<'a, M> {
    /// Makes device `number` ready, whose driver's memory, [`super::gmem::BYTES`] in `ram`, begins at `door`, and [`BYTES`] for the
    /// queue at `area`. All chains are posted.
    ///
    /// # Errors
    ///
    /// What is wrong with the device.
    pub fn start(
        machine: &'a M,
        number: usize,
        (ram, door, area): (Extent<'a>, u64, u64),
        patience: u64,
    ) -> Result<Self, Fault> {
        ram.clear(area..area + BYTES);
        let places = |at| Places {
            table: at,
            avail: at + AVAIL,
            used: at + USED,
        };
        let mut queues = [
            Queue::new(places(area + EVENTS), CHAINS),
            Queue::new(places(area), 2 * CHAINS),
        ];
        let more = (feature::PAGER, &mut queues[..]);
        let gmem = Gmem::start_with(machine, number, (ram, door), patience, more)?;
        let [_, queue] = queues;
        Ok(Self {
            gmem,
            registers: Registers::new(machine, number),
            ram,
            queue,
            area,
        })
    }

    fn answer_at(&self, chain: u16) -> u64 {
        self.area + BUFFERS + u64::from(chain) * 2 * Call::ROOM as u64
    }

    /// Puts a chain into the queue, with `len` bytes of an answer, or none.
    pub fn post(&mut self, chain: u16, len: u32) {
        let answer = self.answer_at(chain);
        let room = (answer + Call::ROOM as u64, Call::ROOM as u32, true);
        let both = [(answer, len, false), room];
        let buffers = if len == 0 { &both[1..] } else { &both[..] };
        self.queue.offer(&self.ram, 2 * chain, buffers);
        self.registers.notify(queue::PAGER as u32);
    }

    /// The next call, if one is there. A chain that came back with nothing in it has been posted again.
    ///
    /// # Errors
    ///
    /// The device does not keep to the rules.
    pub fn poll(&mut self) -> Result<Option<Incoming>, Fault> {
        let Some((head, written)) = self.queue.answer(&self.ram) else {
            return Ok(None);
        };
        if head % 2 != 0 || head >= 2 * u32::from(CHAINS) || written as usize > Call::ROOM {
            return Err("a call in a chain that is none");
        }
        let chain = (head / 2) as u16;
        if written == 0 {
            self.post(chain, 0);
            return Ok(None);
        }
        let answer_at = self.answer_at(chain);
        let at = answer_at + Call::ROOM as u64;
        let mut bytes = [0; Call::SIZE];
        self.ram.get_words(at, &mut bytes);
        let call = Call::from_bytes(&bytes);
        if Call::SIZE + call.len as usize > Call::DATA_AT {
            return Err("a call that is longer than any");
        }
        Ok(Some(Incoming {
            chain,
            call,
            at,
            answer_at,
        }))
    }

    /// Whether the device is broken.
    pub fn is_broken(&self) -> bool {
        self.registers.needs_reset()
    }
}
