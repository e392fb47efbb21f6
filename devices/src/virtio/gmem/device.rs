//! The device and its queues.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use gmem_core::page::PAGE_SIZE;
use gmem_wire::gmem::{EVENT_SIZE, ID, QUEUE_SIZE, Response, config, feature, queue, status};

use super::calls::Calls;
use super::desk::Desk;
use super::event::Watch;
use super::metrics::Metrics;
use super::nodes::{NodeError, Nodes};
use super::request::{self, LARGEST, Request, Task};
use super::state::State;
use crate::virtio::{Broken, Buffers, Device, Guest};

const QUEUE_SIZES: [u16; 3] = [QUEUE_SIZE; 3];

/// Numbers of the sources.
mod source {
    pub(super) const CALLS: usize = 1;
}

/// The guest's door to the memory system.
pub struct Gmem {
    nodes: Box<dyn Nodes>,
    watch: Watch,
    /// The driver wants to hear of events.
    listens: bool,
    /// Where the guest lends memory, if it may.
    desk: Option<Desk>,
    /// The driver does.
    lends: bool,
    metrics: Metrics,
}

impl Gmem {
    /// The door to `nodes`.
    ///
    /// # Errors
    ///
    /// The host has no timer left.
    pub fn new(nodes: Box<dyn Nodes>) -> io::Result<Self> {
        Ok(Self {
            nodes,
            watch: Watch::new()?,
            listens: false,
            desk: None,
            lends: false,
            metrics: Metrics::default(),
        })
    }

    /// The door to `nodes`, through which the guest may lend memory to those who make `calls`.
    ///
    /// # Errors
    ///
    /// As for [`Gmem::new`].
    pub fn lending(nodes: Box<dyn Nodes>, calls: Arc<Calls>) -> io::Result<Self> {
        Ok(Self {
            desk: Some(Desk::new(calls)),
            ..Self::new(nodes)?
        })
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        State {}
    }

    fn serve(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        loop {
            let Some(chain) = guest.pop(queue::REQUESTS)? else {
                match guest.enable_notification(queue::REQUESTS)? {
                    true => continue,
                    false => break,
                }
            };
            let request = Request::parse(chain, guest.memory())?;
            let response = match request.task {
                Some(task) => self.answer(task),
                None => refusal(status::INVALID),
            };
            self.metrics.refused += u64::from(response.status != status::OK);
            let written = request.answer(guest.memory(), response)?;
            guest.give_back(queue::REQUESTS, request.head, written)?;
            any = true;
        }
        match any {
            true => guest.signal(queue::REQUESTS),
            false => Ok(()),
        }
    }

    fn answer(&mut self, task: Task) -> Response {
        match self.carry_out(task) {
            Ok(values) => Response {
                status: status::OK,
                values,
            },
            Err(error) => refusal(request::status(&error)),
        }
    }

    fn carry_out(&mut self, task: Task) -> Result<[u64; 4], NodeError> {
        let (nodes, metrics) = (&self.nodes, &mut self.metrics);
        let mut values = [0; 4];
        match task {
            Task::Advise {
                node,
                address,
                len,
                advice,
            } => {
                nodes.advise(node, address, len, advice)?;
                metrics.advised += 1;
                metrics.advised_bytes += len;
            }
            Task::Copy {
                node,
                to,
                from,
                len,
            } => {
                nodes.copy(node, to, from, len)?;
                metrics.copied_bytes += len;
            }
            Task::Node(node) => {
                let node = nodes.node(node).ok_or(NodeError::Invalid)?;
                values = [node.kind, node.capacity, node.used, node.peak];
                metrics.answered += 1;
            }
            Task::Where { node, address, len } => {
                values[0] = nodes.bytes_in(node, address, len)?;
                metrics.answered += 1;
            }
            Task::Cap { node, bytes } => nodes.set_cap(node, bytes)?,
        }
        Ok(values)
    }

    /// Tells what there is to tell, for as long as there are buffers to tell it in.
    fn tell(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        for number in 0..self.nodes.count() {
            let Some(node) = self.nodes.node(number) else {
                continue;
            };
            let Some(event) = self.watch.look(number, node) else {
                continue;
            };
            let Some(chain) = guest.pop(queue::EVENTS)? else {
                self.watch.take_back(number);
                break;
            };
            let buffers = Buffers::of(chain)?;
            if !buffers.readable.is_empty() || buffers.writable.len() < EVENT_SIZE {
                return Err(Broken(format!(
                    "a buffer for an event of {} bytes to write, instead of {EVENT_SIZE}",
                    buffers.writable.len()
                )));
            }
            let written = buffers.writable.write(guest.memory(), &event)?;
            guest.give_back(queue::EVENTS, buffers.head, written as u32)?;
            self.metrics.events += 1;
            any = true;
        }
        match any {
            true => guest.signal(queue::EVENTS),
            false => Ok(()),
        }
    }
}

impl Gmem {
    /// Lets the desk do something, if the driver lends memory.
    fn at_desk(
        &mut self,
        work: impl FnOnce(&mut Desk) -> Result<u64, Broken>,
    ) -> Result<(), Broken> {
        if let Some(desk) = self.desk.as_mut().filter(|_| self.lends) {
            self.metrics.calls += work(desk)?;
        }
        Ok(())
    }
}

fn refusal(status: u32) -> Response {
    Response {
        status,
        values: [0; 4],
    }
}

impl Device for Gmem {
    fn id(&self) -> u32 {
        ID
    }

    fn features(&self) -> u64 {
        match self.desk {
            Some(_) => feature::EVENTS | feature::PAGER,
            None => feature::EVENTS,
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES[..2 + usize::from(self.desk.is_some())]
    }

    fn config(&self) -> Vec<u8> {
        let mut bytes = vec![0; config::SIZE];
        let mut put = |at: u64, value: &[u8]| {
            bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
        };
        put(config::NODES, &self.nodes.count().to_le_bytes());
        put(config::PAGE, &(PAGE_SIZE as u32).to_le_bytes());
        put(config::LARGEST, &LARGEST.to_le_bytes());
        bytes
    }

    fn sources(&self) -> Vec<RawFd> {
        let calls = self.desk.as_ref().map(|desk| desk.calls().source());
        [self.watch.source()].into_iter().chain(calls).collect()
    }

    fn wants(&self, source: usize) -> bool {
        match source {
            source::CALLS => self.lends,
            _ => self.listens,
        }
    }

    fn start(&mut self, features: u64, _: &mut Guest<'_>) -> Result<(), Broken> {
        self.listens = features & feature::EVENTS != 0 && self.watch.start().is_ok();
        self.lends = features & feature::PAGER != 0;
        Ok(())
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match queue {
            queue::REQUESTS => self.serve(guest),
            queue::PAGER => self.at_desk(|desk| desk.serve(guest)),
            // Buffers for events wait until there is something to tell.
            _ => Ok(()),
        }
    }

    fn ready(&mut self, source: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if source == source::CALLS {
            return self.at_desk(|desk| {
                desk.calls().heard();
                desk.tell(guest)
            });
        }
        self.watch.woken();
        self.tell(guest)
    }

    fn settle(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.at_desk(|desk| desk.settle(guest).map(|()| 0))
    }

    fn reset(&mut self) {
        self.watch.stop();
        self.listens = false;
        if let Some(desk) = self.desk.as_mut().filter(|_| self.lends) {
            desk.reset();
        }
        self.lends = false;
    }

    fn metrics(&self) -> serde_json::Value {
        serde_json::to_value(&self.metrics).unwrap_or_default()
    }
}
