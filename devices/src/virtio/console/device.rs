//! The device and its two queues.

use std::io::{self, Write};
use std::os::fd::{OwnedFd, RawFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::input::Input;
use super::metrics::Metrics;
use super::output::Output;
use super::request::{self, Received};
use super::state::State;
use crate::virtio::{Broken, Device, Guest};

/// From the host to the guest.
const RECEIVE: usize = 0;
/// From the guest to the host.
const TRANSMIT: usize = 1;
const QUEUE_SIZES: [u16; 2] = [64, 64];
/// Feature bit VIRTIO_CONSOLE_F_SIZE: the configuration says how large the console is.
const F_SIZE: u64 = 1 << 0;

/// A console with one port.
pub struct Console {
    output: Output,
    input: Option<Input>,
    /// There may be input, and the driver has no buffer for it.
    starved: bool,
    size: Option<(u16, u16)>,
    metrics: Metrics,
}

impl Console {
    /// A console that writes to `output` and reads from `input`: a pipe, a terminal, a file.
    ///
    /// The output may block: a thread waits for it, and only the last 64 KiB wait with it. The input's flags are
    /// left alone; nobody else should read from it.
    ///
    /// # Errors
    ///
    /// The host has no thread left, or cannot wait for `input`.
    pub fn new(output: Box<dyn Write + Send>, input: Option<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            output: Output::new(output)?,
            input: input.map(Input::new).transpose()?,
            starved: false,
            size: None,
            metrics: Metrics::default(),
        })
    }

    /// Tells the driver how large the console is: columns and rows.
    pub fn with_size(self, columns: u16, rows: u16) -> Self {
        Self {
            size: Some((columns, rows)),
            ..self
        }
    }

    /// What a snapshot keeps.
    pub fn state(&self) -> State {
        State { size: self.size }
    }

    /// Gives input to the driver for as long as there are both input and buffers.
    fn receive(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.starved = false;
        let Some(input) = &mut self.input else {
            return Ok(());
        };
        let mut any = false;
        while !input.ended() {
            let Some(chain) = guest.pop(RECEIVE)? else {
                if guest.enable_notification(RECEIVE)? {
                    continue;
                }
                self.starved = true;
                break;
            };
            match request::receive(chain, input, guest.memory())? {
                Received::Done { head, len } => {
                    guest.give_back(RECEIVE, head, len as u32)?;
                    self.metrics.input_bytes += len as u64;
                    any = true;
                }
                Received::Nothing => {
                    guest.unpop(RECEIVE);
                    break;
                }
            }
        }
        if any {
            guest.signal(RECEIVE)?;
        }
        Ok(())
    }

    /// Passes on what the driver writes.
    fn transmit(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        loop {
            let Some(chain) = guest.pop(TRANSMIT)? else {
                if guest.enable_notification(TRANSMIT)? {
                    continue;
                }
                break;
            };
            let sent = request::send(chain, guest.memory())?;
            self.output.push(&sent.bytes);
            self.metrics.output_bytes += sent.bytes.len() as u64 + sent.excess;
            self.metrics.dropped_bytes += sent.excess;
            guest.give_back(TRANSMIT, sent.head, 0)?;
            any = true;
        }
        if any {
            guest.signal(TRANSMIT)?;
        }
        Ok(())
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn features(&self) -> u64 {
        self.size.map_or(0, |_| F_SIZE)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// Laid out as `struct virtio_console_config`.
    fn config(&self) -> Vec<u8> {
        let (columns, rows) = self.size.unwrap_or_default();
        let mut config = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
        // Ports, and a register for emergencies: not on offer.
        config.extend([0; 8]);
        config
    }

    fn sources(&self) -> Vec<RawFd> {
        let source = self.input.as_ref().and_then(Input::source);
        source.into_iter().collect()
    }

    fn wants(&self, _: usize) -> bool {
        !self.starved && self.input.as_ref().is_some_and(|input| !input.ended())
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(guest),
            _ => self.transmit(guest),
        }
    }

    fn ready(&mut self, _: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.receive(guest)
    }

    fn reset(&mut self) {
        self.starved = false;
    }

    fn metrics(&self) -> serde_json::Value {
        let metrics = Metrics {
            dropped_bytes: self.metrics.dropped_bytes + self.output.dropped(),
            ..self.metrics.clone()
        };
        serde_json::to_value(metrics).unwrap_or_default()
    }
}
