//! The device and its queue.

use std::os::fd::RawFd;
use std::sync::Arc;

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::engine::{self, Engine, Slot};
use super::file::{BlkOptions, Disk, Image, OpenError, SERIAL_LEN, serial};
use super::metrics::Metrics;
use super::operation::{Kind, Next, Operation};
use super::request::{Request, Status, Todo};
use super::state::State;
use crate::virtio::{Broken, Device, Guest, Input, Limiter};

const QUEUE: usize = 0;
const QUEUE_SIZE: u16 = 256;
const QUEUE_SIZES: [u16; 1] = [QUEUE_SIZE];

/// A disk.
pub struct Blk {
    disk: Disk,
    serial: [u8; SERIAL_LEN],
    engine: Box<dyn Engine>,
    limiter: Limiter,
    /// Requests under way. A driver may offer one descriptor many times: never more than there are slots.
    slots: Vec<Option<UnderWay>>,
    free: Vec<Slot>,
    /// The driver knows no flushes: writes are stable when they complete.
    write_through: bool,
    /// The driver has not been told of all answers.
    answered: bool,
    metrics: Metrics,
}

/// A request with what the engine does for it.
struct UnderWay {
    request: Request,
    operation: Operation,
    /// The kernel writes to guest memory.
    _input: Option<Input>,
}

impl Blk {
    /// Opens a disk.
    ///
    /// # Errors
    ///
    /// The file is no disk image, may not be opened, or is used by another process.
    pub fn open(options: BlkOptions) -> Result<Self, OpenError> {
        Self::with_engine(options, engine::best)
    }

    pub(super) fn with_engine(
        options: BlkOptions,
        engine: impl FnOnce(&Arc<std::fs::File>, u16) -> Box<dyn Engine>,
    ) -> Result<Self, OpenError> {
        let serial = serial(options.serial.as_deref())?;
        let Image { file, disk } = Image::open(&options.path, options.read_only)?;
        let limiter = Limiter::new(options.rate).map_err(|error| OpenError::Host {
            path: options.path,
            error,
        })?;
        let engine = engine(&Arc::new(file), QUEUE_SIZE);
        Ok(Self {
            disk,
            serial,
            metrics: Metrics {
                engine: engine.name(),
                ..Metrics::default()
            },
            engine,
            limiter,
            slots: (0..QUEUE_SIZE).map(|_| None).collect(),
            free: (0..QUEUE_SIZE).rev().collect(),
            write_through: false,
            answered: false,
        })
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        let serial = self.serial.split(|byte| *byte == 0).next();
        State {
            sectors: self.disk.sectors,
            read_only: self.disk.read_only,
            features: self.features(),
            serial: String::from_utf8_lossy(serial.unwrap_or_default()).into_owned(),
            write_through: self.write_through,
        }
    }

    fn under_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes requests for as long as there are some, and room, and the rate allows it.
    fn take(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        while !self.free.is_empty() && self.limiter.admits() {
            let Some(chain) = guest.pop(QUEUE)? else {
                match guest.enable_notification(QUEUE)? {
                    true => continue,
                    false => break,
                }
            };
            let (request, todo) = Request::parse(chain, &self.disk, guest.memory())?;
            self.limiter.spend(request.bytes);
            match todo {
                Todo::Start(operation) => self.begin(request, operation, guest)?,
                Todo::Serial => {
                    request.tell(&self.serial, guest.memory())?;
                    self.answer(request, Status::Ok, guest)?;
                }
                Todo::Answer(status) => self.answer(request, status, guest)?,
            }
        }
        self.engine.submit();
        self.signal(guest)
    }

    fn signal(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match std::mem::take(&mut self.answered) {
            true => guest.signal(QUEUE),
            false => Ok(()),
        }
    }

    fn begin(
        &mut self,
        request: Request,
        mut operation: Operation,
        guest: &mut Guest<'_>,
    ) -> Result<(), Broken> {
        operation.durable = self.write_through;
        let Some(slot) = self.free.pop() else {
            return self.answer(request, Status::Failed, guest);
        };
        let reads = operation.kind == Kind::Read;
        self.slots[usize::from(slot)] = Some(UnderWay {
            request,
            operation,
            _input: reads.then(|| guest.incoming().begin()),
        });
        let under_way = self.under_way() as u64;
        self.metrics.most_under_way = self.metrics.most_under_way.max(under_way);
        self.go_on(slot, guest)
    }

    /// Starts what is in `slot`, for as long as it is over at once.
    fn go_on(&mut self, slot: Slot, guest: &mut Guest<'_>) -> Result<(), Broken> {
        while let Some(UnderWay { operation, .. }) = &self.slots[usize::from(slot)] {
            // SAFETY: the operation stays in its slot until the engine says that it is over, and guest memory
            // stays mapped: resetting the device, or dropping it, waits for all operations.
            let Some(result) = (unsafe { self.engine.start(slot, operation) }) else {
                break;
            };
            if !self.finish(slot, result, guest)? {
                break;
            }
        }
        Ok(())
    }

    /// The engine is done with `slot`. True: there is more to do.
    fn finish(
        &mut self,
        slot: Slot,
        result: std::io::Result<u64>,
        guest: &mut Guest<'_>,
    ) -> Result<bool, Broken> {
        let place = &mut self.slots[usize::from(slot)];
        let Some(under_way) = place else {
            return Ok(false);
        };
        let status = match under_way.operation.next(result) {
            Next::Again => return Ok(true),
            Next::Done => Status::Ok,
            Next::Failed => Status::Failed,
            Next::Unsupported => Status::Unsupported,
        };
        if let Some(UnderWay { request, .. }) = place.take() {
            self.free.push(slot);
            self.answer(request, status, guest)?;
        }
        Ok(false)
    }

    fn answer(
        &mut self,
        request: Request,
        status: Status,
        guest: &mut Guest<'_>,
    ) -> Result<(), Broken> {
        self.metrics.count(request.kind, request.bytes, status);
        self.answered = true;
        request.answer(status, QUEUE, guest)
    }

    /// Answers what is over. If the driver has broken the device, the rest is let go all the same.
    fn harvest(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut fine = Ok(());
        for (slot, result) in self.engine.completed() {
            if fine.is_err() {
                self.let_go(slot);
                continue;
            }
            fine = match self.finish(slot, result, guest) {
                Ok(true) => self.go_on(slot, guest),
                Ok(false) => Ok(()),
                Err(broken) => Err(broken),
            };
        }
        fine
    }

    /// The engine is done with `slot`, and nobody wants to know.
    fn let_go(&mut self, slot: Slot) {
        if self.slots[usize::from(slot)].take().is_some() {
            self.free.push(slot);
        }
    }
}

impl Device for Blk {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        self.disk.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.disk.config()
    }

    fn sources(&self) -> Vec<RawFd> {
        let sources = [self.engine.source(), self.limiter.source()];
        sources.into_iter().flatten().collect()
    }

    fn start(&mut self, features: u64, _: &mut Guest<'_>) -> Result<(), Broken> {
        self.write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        Ok(())
    }

    fn notified(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.take(guest)
    }

    /// Whichever source it is: both are asked.
    fn ready(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.limiter.woken();
        self.harvest(guest)?;
        self.take(guest)
    }

    fn settle(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        while self.under_way() > 0 {
            self.engine.wait();
            self.harvest(guest)?;
        }
        self.signal(guest)
    }

    /// Waits for the kernel: it may be writing to guest memory. Answers nothing.
    fn reset(&mut self) {
        while self.under_way() > 0 {
            self.engine.wait();
            for (slot, _) in self.engine.completed() {
                self.let_go(slot);
            }
        }
        self.limiter.woken();
        self.write_through = false;
        self.answered = false;
    }

    fn metrics(&self) -> serde_json::Value {
        let metrics = Metrics {
            held_back: self.limiter.held_back(),
            ..self.metrics.clone()
        };
        serde_json::to_value(metrics).unwrap_or_default()
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        self.reset();
    }
}
