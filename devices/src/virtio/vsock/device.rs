//! The device and its three queues.

use std::os::fd::RawFd;
use std::path::Path;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::host::{Host, SocketFile, VsockError};
use super::hub::Hub;
use super::request::{self, HEADER_SIZE, MOST_PAYLOAD, Outgoing};
use super::state::{OtherCid, State};
use crate::virtio::{Broken, Buffers, Chain, Device, Guest};

/// Packets to the guest.
const RECEIVE: usize = 0;
/// Packets from the guest.
const SEND: usize = 1;
const EVENT: usize = 2;
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// The only event: all connections are gone.
const TRANSPORT_RESET: u32 = 0;

/// A virtio-vsock.
pub struct Vsock {
    hub: Hub,
    /// The guest is to be told that its connections are gone.
    tell_reset: bool,
    /// A packet's payload.
    scratch: Box<[u8]>,
}

impl Vsock {
    /// A device whose guest has address `cid`, and whose host's side are sockets at and beside `uds`, see
    /// [the module](super).
    ///
    /// # Errors
    ///
    /// See [`VsockError`].
    pub fn new(cid: u64, uds: &Path) -> Result<Self, VsockError> {
        if !(3..u64::from(u32::MAX)).contains(&cid) {
            return Err(VsockError::Cid(cid));
        }
        let host = Host::new(uds)?;
        let hub = Hub::new(cid, host).map_err(|cause| VsockError::Socket {
            path: uds.to_owned(),
            cause,
        })?;
        Ok(Self {
            hub,
            tell_reset: false,
            scratch: vec![0; MOST_PAYLOAD].into(),
        })
    }

    /// The file of the host's socket, which goes with the device, or before.
    pub fn socket_file(&self) -> SocketFile {
        self.hub.host().file().clone()
    }

    /// What a snapshot needs.
    pub fn state(&self) -> State {
        State {
            cid: self.hub.cid(),
        }
    }

    /// Goes on where another device was: the guest is told that its connections are gone.
    ///
    /// # Errors
    ///
    /// The guest had another address.
    pub fn restore(&mut self, state: &State) -> Result<(), OtherCid> {
        if state.cid != self.hub.cid() {
            return Err(OtherCid {
                found: state.cid,
                expected: self.hub.cid(),
            });
        }
        self.tell_reset = true;
        Ok(())
    }

    /// How many packets wait for the guest's room.
    #[cfg(test)]
    pub(super) fn backlog(&self) -> usize {
        self.hub.backlog()
    }

    /// Takes the guest's packets.
    fn take(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        while let Some(chain) = next(SEND, guest)? {
            let buffers = Buffers::of(chain)?;
            match request::read(buffers.readable, guest.memory(), &mut self.scratch)? {
                Outgoing::Packet(header, payload) => self.hub.receive(&header, payload),
                Outgoing::Cut(header) => self.hub.refuse(&header),
                Outgoing::Nothing => self.hub.metrics.dropped += 1,
            }
            guest.give_back(SEND, buffers.head, 0)?;
            any = true;
        }
        if any {
            guest.signal(SEND)?;
        }
        Ok(())
    }

    /// Gives the guest what there is for it, as far as it has room.
    fn give(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        while self.hub.has_news()
            && let Some(chain) = next(RECEIVE, guest)?
        {
            let buffers = Buffers::of(chain)?;
            let room = match buffers.writable.len() {
                len if len > HEADER_SIZE => (len - HEADER_SIZE).min(MOST_PAYLOAD),
                len => {
                    return Err(Broken(format!(
                        "a buffer of {len} bytes, where a header has {HEADER_SIZE}"
                    )));
                }
            };
            let Some(header) = self.hub.next(&mut self.scratch[..room]) else {
                guest.unpop(RECEIVE);
                break;
            };
            let payload = &self.scratch[..header.len as usize];
            let written = request::write(buffers.writable, guest.memory(), &header, payload)?;
            guest.give_back(RECEIVE, buffers.head, written)?;
            any = true;
        }
        if any {
            guest.signal(RECEIVE)?;
        }
        Ok(())
    }

    /// Tells the guest that its connections are gone, if it has to know.
    fn tell(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if self.tell_reset
            && let Some(chain) = next(EVENT, guest)?
        {
            let buffers = Buffers::of(chain)?;
            let event = TRANSPORT_RESET.to_le_bytes();
            let written = buffers.writable.write(guest.memory(), &event)?;
            guest.give_back(EVENT, buffers.head, written as u32)?;
            guest.signal(EVENT)?;
            self.tell_reset = false;
        }
        Ok(())
    }
}

/// The next request of `queue`; if there is none, the driver notifies when there is.
fn next<'g>(queue: usize, guest: &mut Guest<'g>) -> Result<Option<Chain<'g>>, Broken> {
    if !guest.uses(queue) {
        return Ok(None);
    }
    loop {
        match guest.pop(queue)? {
            None if guest.enable_notification(queue)? => continue,
            chain => return Ok(chain),
        }
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.hub.cid().to_le_bytes().into()
    }

    fn sources(&self) -> Vec<RawFd> {
        vec![self.hub.fd()]
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match queue {
            SEND => self.take(guest)?,
            EVENT => self.tell(guest)?,
            _ => {}
        }
        self.give(guest)
    }

    fn ready(&mut self, _source: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.hub
            .poll()
            .map_err(|error| Broken(format!("the host's sockets are out of reach: {error}")))?;
        self.give(guest)
    }

    fn reset(&mut self) {
        self.hub.clear();
        self.tell_reset = false;
    }

    fn metrics(&self) -> serde_json::Value {
        serde_json::to_value(self.hub.metrics).unwrap_or_default()
    }
}
