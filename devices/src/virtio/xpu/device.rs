//! The device, its queues, and what comes back from its streams.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use gmem_wire::xpu::{self, QUEUE_SIZE, Response, STREAMS, config, feature, status};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::metrics::Metrics;
use super::request::{self, Request};
use super::state::State;
use super::streams::{Accelerator, Streams};
use crate::virtio::{Broken, Device, Guest};

const QUEUE_SIZES: [u16; STREAMS] = [QUEUE_SIZE; STREAMS];
/// Commands that may be under way or wait: of a driver by the rules never more, because each has its descriptors.
const DEPTH: usize = QUEUE_SIZE as usize;

/// What the driver is told of the accelerator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XpuConfig {
    /// Its micro-architecture, see [`gmem_wire::xpu::arch`].
    pub arch: u32,
    /// How many streams, from 1 to [`STREAMS`].
    pub streams: usize,
    /// Memory for pages, bytes.
    pub memory: u64,
    /// Bytes that come and go together.
    pub granule: u32,
    /// Operands come as it touches them.
    pub faults: bool,
}

/// An accelerator.
pub struct Xpu {
    config: XpuConfig,
    accelerator: Box<dyn Accelerator>,
    /// Since the driver was ready first.
    streams: Option<Box<dyn Streams>>,
    done: Arc<DoneList>,
    under_way: [Vec<Request>; STREAMS],
    metrics: Metrics,
}

/// Commands that are done and not answered.
struct DoneList {
    /// Stream and answer, in the order in which they ended.
    ended: Mutex<Vec<(usize, Option<Response>)>>,
    signal: EventFd,
}

impl DoneList {
    fn push(&self, stream: usize, response: Option<Response>) {
        self.lock().push((stream, response));
        // It cannot be full: it is read before the list is taken.
        let _ = self.signal.write(1);
    }

    fn take(&self) -> Vec<(usize, Option<Response>)> {
        // Nothing there: somebody has been here already.
        let _ = self.signal.read();
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(usize, Option<Response>)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Xpu {
    /// The device of `accelerator`.
    ///
    /// # Errors
    ///
    /// The host has no more descriptors.
    pub fn new(config: XpuConfig, accelerator: Box<dyn Accelerator>) -> io::Result<Self> {
        Ok(Self {
            config,
            accelerator,
            streams: None,
            done: Arc::new(DoneList {
                ended: Mutex::default(),
                signal: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            }),
            under_way: Default::default(),
            metrics: Metrics::default(),
        })
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        State {}
    }

    /// Takes commands of `stream` for as long as there are some, and room.
    fn take(&mut self, stream: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut answered = false;
        while self.under_way[stream].len() < DEPTH {
            let Some(chain) = guest.pop(stream)? else {
                match guest.enable_notification(stream)? {
                    true => continue,
                    false => break,
                }
            };
            let request = Request::parse(chain, guest.memory())?;
            let Some(streams) = &self.streams else {
                return Err(Broken("a command before the driver is ready".into()));
            };
            // One that makes no sense has its turn as the others have: answers keep their order.
            let (sensible, command) = match request.command {
                Some(command) => (true, command),
                None => (false, crate::accel::Command::Nop),
            };
            let done = Arc::clone(&self.done);
            let submitted = streams.submit(
                stream,
                command,
                Box::new(move |result| {
                    let mut response = request::response(result);
                    if let Some(response) = &mut response
                        && !sensible
                    {
                        response.status = status::INVALID;
                    }
                    done.push(stream, response);
                }),
            );
            if submitted.is_err() {
                let response = Response {
                    status: status::DEVICE,
                    value: 0,
                };
                self.give_back(stream, &request, response, guest)?;
                answered = true;
                continue;
            }
            self.under_way[stream].push(request);
        }
        let all = self.under_way.iter().map(Vec::len).sum();
        self.metrics.most_under_way = self.metrics.most_under_way.max(all);
        if answered {
            guest.signal(stream)?;
        }
        Ok(())
    }

    /// Answers what is done; how much of each stream.
    fn answer(&mut self, guest: &mut Guest<'_>) -> Result<[usize; STREAMS], Broken> {
        let mut answered = [0; STREAMS];
        for (stream, response) in self.done.take() {
            let at = answered[stream];
            answered[stream] += 1;
            // Those of a stream end in their order.
            let Some(request) = self.under_way[stream].get(at).cloned() else {
                continue;
            };
            if let Some(response) = response {
                self.give_back(stream, &request, response, guest)?;
            }
        }
        for (stream, count) in answered.iter().copied().enumerate() {
            if count > 0 {
                let of_stream = &mut self.under_way[stream];
                of_stream.drain(..count.min(of_stream.len()));
                guest.signal(stream)?;
            }
        }
        Ok(answered)
    }

    fn give_back(
        &mut self,
        stream: usize,
        request: &Request,
        response: Response,
        guest: &mut Guest<'_>,
    ) -> Result<(), Broken> {
        let metrics = &mut self.metrics;
        *match response.status {
            status::OK => &mut metrics.done,
            status::INVALID => &mut metrics.invalid,
            status::FAULT => &mut metrics.faults,
            status::NO_MEMORY | status::TOO_LARGE => &mut metrics.no_memory,
            _ => &mut metrics.failures,
        } += 1;
        let written = request.answer(guest.memory(), response)?;
        guest.give_back(stream, request.head, written)
    }
}

impl Device for Xpu {
    fn id(&self) -> u32 {
        xpu::ID
    }

    fn features(&self) -> u64 {
        u64::from(self.config.faults) * feature::FAULTS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES[..self.config.streams.clamp(1, STREAMS)]
    }

    fn config(&self) -> Vec<u8> {
        let XpuConfig {
            arch,
            streams,
            memory,
            granule,
            ..
        } = self.config;
        let mut bytes = vec![0; config::SIZE];
        let mut put = |at: u64, value: &[u8]| {
            bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        };
        put(config::ARCH, &arch.to_le_bytes());
        put(config::STREAMS, &(streams as u32).to_le_bytes());
        put(config::MEMORY, &memory.to_le_bytes());
        put(config::GRANULE, &granule.to_le_bytes());
        put(config::NODE, &self.accelerator.node().to_le_bytes());
        bytes
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.done.signal.as_raw_fd()]
    }

    fn start(&mut self, features: u64, _: &mut Guest<'_>) -> Result<(), Broken> {
        let streams = match self.streams.take() {
            Some(streams) => streams,
            None => {
                let streams = self.accelerator.streams();
                streams.map_err(|error| Broken(error.to_string()))?
            }
        };
        streams.set_faults(features & feature::FAULTS != 0);
        self.streams = Some(streams);
        Ok(())
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.take(queue, guest)
    }

    fn ready(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let answered = self.answer(guest)?;
        for (stream, _) in answered.iter().enumerate().filter(|(_, count)| **count > 0) {
            // There may be more than there was room for.
            self.take(stream, guest)?;
        }
        Ok(())
    }

    fn settle(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if let Some(streams) = &self.streams {
            streams.synchronize();
        }
        self.answer(guest).map(|_| ())
    }

    fn reset(&mut self) {
        if let Some(streams) = &self.streams {
            streams.abort();
        }
        drop(self.done.take());
        for of_stream in &mut self.under_way {
            self.metrics.aborted += of_stream.len() as u64;
            of_stream.clear();
        }
    }

    fn metrics(&self) -> serde_json::Value {
        let metrics = Metrics {
            link: self.accelerator.traffic().into(),
            ..self.metrics.clone()
        };
        serde_json::to_value(metrics).unwrap_or_default()
    }
}
