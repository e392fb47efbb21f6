//! Driver of a virtio-xpu: an accelerator.

use super::stream::{self, Answer, DEPTH, Stream};
use crate::clock::cycles;
use crate::extent::Extent;
use crate::virtio::registers::{CONFIG, Registers};
use crate::virtio::{self, Fault};
use crate::work::Machine;
use core::hint::spin_loop;
use gmem_wire::xpu::{Request, config, feature, op, status};

/// The stream that works.
pub const WORK: usize = 0;
/// The stream of hints: they overlap with work.
pub const HINTS: usize = 1;
/// Streams that the driver uses, at most.
const USED: usize = 2;
/// Memory of the driver, bytes.
pub const BYTES: u64 = stream::BYTES * USED as u64;
/// How often, while nothing comes, the driver asks whether the device is broken: in so many parts of its patience.
const LOOKS: u64 = 64;

/// An accelerator.
pub struct Xpu<'a, M> {
    registers: Registers<'a, M>,
    ram: Extent<'a>,
    streams: [Stream; USED],
    /// Those of them that the device has.
    count: usize,
    patience: u64,
    /// When the device's status is asked for.
    look: u64,
    /// Bytes of its local memory, as it says.
    pub memory: u64,
    /// Bytes that come and go together, as it says.
    pub granule: u64,
    /// What its local memory is to virtio-gmem, as it says.
    pub node: u32,
    /// Commands that it has answered.
    pub commands: u64,
}

impl<'a, M: Machine> Xpu<'a, M> {
    /// Makes device `number` ready, whose driver's memory, [`BYTES`] in `ram`, begins at `area`. It may take `patience`
    /// cycles for a command.
    ///
    /// # Errors
    ///
    /// What is wrong with the device.
    pub fn start(
        machine: &'a M,
        number: usize,
        (ram, area): (Extent<'a>, u64),
        patience: u64,
    ) -> Result<Self, Fault> {
        let registers = Registers::new(machine, number);
        registers.reset();
        ram.clear(area..area + BYTES);
        let place = |at: usize| Stream::new(area + stream::BYTES * at as u64);
        let mut streams: [_; USED] = core::array::from_fn(place);
        let present = registers.read(CONFIG + config::STREAMS) as usize;
        if present == 0 {
            return Err("an accelerator without queues");
        }
        let count = present.min(USED);
        let mut queues = streams.map(|stream| stream.queue);
        virtio::start(&registers, feature::FAULTS, &mut queues[..count], &ram)?;
        for (stream, queue) in streams.iter_mut().zip(queues) {
            stream.queue = queue;
        }
        Ok(Self {
            ram,
            streams,
            count,
            patience,
            look: 0,
            memory: registers.config(config::MEMORY),
            granule: u64::from(registers.read(CONFIG + config::GRANULE)),
            node: node(&registers),
            commands: 0,
            registers,
        })
    }

    /// Commands in flight in a stream.
    pub fn in_flight(&self, stream: usize) -> u64 {
        self.streams[stream].in_flight()
    }

    /// Sends a command; its ticket. There must be room: see [`DEPTH`].
    ///
    /// # Errors
    ///
    /// There is no room.
    pub fn submit(&mut self, stream: usize, op: u32, args: &[u64]) -> Result<u64, Fault> {
        let mut command = Request {
            op,
            ..Request::default()
        };
        for (to, arg) in command.args.iter_mut().zip(args) {
            *to = *arg;
        }
        let ticket = self.streams[stream].offer(&self.ram, command)?;
        self.registers.notify(stream as u32);
        Ok(ticket)
    }

    /// The next answer of a stream, if it is there, however its command ended.
    ///
    /// # Errors
    ///
    /// The device does not keep to the rules, or to the time.
    pub fn poll(&mut self, stream: usize) -> Result<Option<Answer>, Fault> {
        let it = &mut self.streams[stream];
        if let Some(answer) = it.answer(&self.ram)? {
            self.commands += 1;
            return Ok(Some(answer));
        }
        if it.in_flight() == 0 {
            return Ok(None);
        }
        let now = cycles();
        let waited = now.saturating_sub(it.since);
        if waited > self.patience {
            return Err("a command was not answered in 60 seconds");
        }
        // Reading a register costs an exit: not each time.
        let interval = self.patience / LOOKS;
        if waited > interval && now > self.look {
            self.look = now + interval;
            if self.registers.needs_reset() {
                return Err("a command by the rules broke the device");
            }
        }
        Ok(None)
    }

    /// Waits for the next answer of a stream, whose command must have been carried out.
    ///
    /// # Errors
    ///
    /// As for [`Xpu::poll`]; the command was not carried out; there is none in flight.
    pub fn wait(&mut self, stream: usize) -> Result<Answer, Fault> {
        while self.in_flight(stream) > 0 {
            if let Some(answer) = self.poll(stream)? {
                carried_out(&answer)?;
                return Ok(answer);
            }
            spin_loop();
        }
        Err("no command is in flight")
    }

    /// Sends a command and waits for its answer. No other may be in flight in that stream.
    ///
    /// # Errors
    ///
    /// As for [`Xpu::wait`].
    pub fn ask(&mut self, stream: usize, op: u32, args: &[u64]) -> Result<Answer, Fault> {
        self.submit(stream, op, args)?;
        self.wait(stream)
    }

    /// Gives advice in the stream of hints, if the device has one and that is not full. It overlaps with what is in the other.
    ///
    /// # Errors
    ///
    /// As for [`Xpu::poll`]; an earlier hint made no sense to the device.
    pub fn hint(&mut self, address: u64, len: u64, advice: u64) -> Result<(), Fault> {
        self.collect_hints()?;
        if self.count > HINTS && self.in_flight(HINTS) < DEPTH {
            self.submit(HINTS, op::ADVISE, &[address, len, advice])?;
        }
        Ok(())
    }

    /// The same, but waits for room.
    ///
    /// # Errors
    ///
    /// As for [`Xpu::hint`].
    pub fn patient_hint(&mut self, address: u64, len: u64, advice: u64) -> Result<(), Fault> {
        while self.in_flight(HINTS) == DEPTH {
            self.collect_hints()?;
            spin_loop();
        }
        self.hint(address, len, advice)
    }

    /// Waits until no hint is in flight.
    ///
    /// # Errors
    ///
    /// As for [`Xpu::hint`].
    pub fn finish_hints(&mut self) -> Result<(), Fault> {
        while self.in_flight(HINTS) > 0 {
            self.collect_hints()?;
            spin_loop();
        }
        Ok(())
    }

    fn collect_hints(&mut self) -> Result<(), Fault> {
        while let Some(answer) = self.poll(HINTS)? {
            // Where there is no room, nothing is brought: that is no fault.
            match answer.response.status {
                status::NO_MEMORY | status::TOO_LARGE => {}
                _ => carried_out(&answer)?,
            }
        }
        Ok(())
    }

    /// Resets the device: on return it touches no memory any more.
    pub fn stop(&self) {
        self.registers.reset();
    }
}

/// What an accelerator's local memory is to virtio-gmem, as it says.
pub fn node<M: Machine>(registers: &Registers<'_, M>) -> u32 {
    registers.read(CONFIG + config::NODE)
}

/// Whether a command was carried out.
///
/// # Errors
///
/// It was not.
pub fn carried_out(answer: &Answer) -> Result<(), Fault> {
    Err(match answer.response.status {
        status::OK => return Ok(()),
        status::INVALID => "a command makes no sense to it",
        status::FAULT => "an operand is not memory to it",
        status::NO_MEMORY => "an operand found no room",
        status::TOO_LARGE => "operands are more than its local memory holds, and it does not fault",
        status::ROW => "an index names no row to it",
        status::DEVICE => "it failed",
        _ => "a command ended with a status that is none",
    })
}
