//! The device and its two queues.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
};

use super::metrics::Metrics;
use super::request::{self, Delivered, LEAST_BYTES, MOST_BYTES, Sent};
use super::state::State;
use super::tap::Tap;
use crate::virtio::{Broken, Buffers, Device, Guest, Limiter, Rate};

const RECEIVE: usize = 0;
const SEND: usize = 1;
/// A packet of 64 KiB takes up to 19 descriptors.
const QUEUE_SIZES: [u16; 2] = [1024; 2];
/// Packets received in one call: others want the device's lock too.
const PACKETS_A_CALL: usize = 256;

/// What a network device is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetOptions {
    /// The guest's hardware address; otherwise its driver chooses one.
    pub mac: Option<[u8; 6]>,
    /// How much the guest may receive.
    pub receive: Option<Rate>,
    /// How much the guest may send.
    pub send: Option<Rate>,
}

/// Who can wake the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Tap,
    ReceiveLimit,
    SendLimit,
}

/// What receiving waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// A packet.
    Packet,
    /// Room for the packet that is in the buffer.
    Room,
    /// The rate limit.
    Limit,
    /// Nothing: the interface is gone.
    Forever,
}

/// A virtio-net.
pub struct Net {
    tap: Tap,
    mac: Option<[u8; 6]>,
    features: Option<u64>,
    receive_limit: Limiter,
    send_limit: Limiter,
    /// The packet on its way in.
    packet: Box<[u8]>,
    /// How long it is; 0, there is none.
    packet_len: usize,
    waits: Waits,
    metrics: Metrics,
}

impl Net {
    /// A device on `tap`'s network.
    ///
    /// # Errors
    ///
    /// The host has no timer for a rate limit.
    pub fn new(tap: Tap, options: NetOptions) -> io::Result<Self> {
        Ok(Self {
            tap,
            mac: options.mac,
            features: None,
            receive_limit: Limiter::new(options.receive)?,
            send_limit: Limiter::new(options.send)?,
            packet: vec![0; MOST_BYTES].into(),
            packet_len: 0,
            waits: Waits::Packet,
            metrics: Metrics::default(),
        })
    }

    /// What a snapshot needs.
    pub fn state(&self) -> State {
        State {
            mac: self.mac,
            features: self.features,
        }
    }

    /// Goes on where another device was, perhaps on another network.
    ///
    /// # Errors
    ///
    /// The interface refuses what the driver was promised.
    pub fn restore(&mut self, state: &State) -> io::Result<()> {
        self.mac = state.mac;
        self.features = state.features;
        self.tap.set_offload(state.features.unwrap_or(0))
    }

    fn sources(&self) -> impl Iterator<Item = (Source, RawFd)> {
        let limits = [
            (Source::ReceiveLimit, self.receive_limit.source()),
            (Source::SendLimit, self.send_limit.source()),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(source, fd)| Some((source, fd?)));
        [(Source::Tap, self.tap.as_raw_fd())]
            .into_iter()
            .chain(limits)
    }

    fn source(&self, number: usize) -> Option<Source> {
        Some(self.sources().nth(number)?.0)
    }

    /// Sends what the driver has put into its queue.
    fn send(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if !guest.uses(SEND) {
            return Ok(());
        }
        let mut any = false;
        guest.disable_notification(SEND)?;
        while self.send_limit.admits() {
            let Some(chain) = guest.pop(SEND)? else {
                match guest.enable_notification(SEND)? {
                    true => continue,
                    false => break,
                }
            };
            let buffers = Buffers::of(chain)?;
            self.send_limit.spend(buffers.readable.len() as u64);
            match request::send(&self.tap, &buffers.readable, guest.memory())? {
                Sent::Bytes(bytes) => {
                    self.metrics.sent_packets += 1;
                    self.metrics.sent_bytes += bytes as u64;
                }
                Sent::Dropped => self.metrics.send_dropped += 1,
            }
            guest.give_back(SEND, buffers.head, 0)?;
            any = true;
        }
        if any {
            guest.signal(SEND)?;
        }
        Ok(())
    }

    /// Receives what has arrived, as far as the driver has room.
    fn receive(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        let mut any = false;
        for _ in 0..PACKETS_A_CALL {
            if self.packet_len == 0 {
                self.waits = self.read();
                if self.packet_len == 0 {
                    break;
                }
            }
            let packet = &mut self.packet[..self.packet_len];
            match request::deliver(guest, RECEIVE, packet)? {
                Delivered::Yes => {
                    any = true;
                    self.metrics.received_packets += 1;
                    self.metrics.received_bytes += self.packet_len as u64;
                }
                Delivered::TooLarge => self.metrics.receive_too_large += 1,
                Delivered::NotYet => {
                    self.metrics.receive_no_buffer += u64::from(self.waits != Waits::Room);
                    self.waits = Waits::Room;
                    break;
                }
            }
            self.packet_len = 0;
            self.waits = Waits::Packet;
        }
        if any {
            guest.signal(RECEIVE)?;
        }
        Ok(())
    }

    /// Reads the next packet: what there is to wait for if there is none.
    fn read(&mut self) -> Waits {
        if self.waits == Waits::Forever {
            return Waits::Forever;
        }
        if !self.receive_limit.admits() {
            return Waits::Limit;
        }
        loop {
            match self.tap.read(&mut self.packet) {
                // A packet that is longer than the buffer counts in full, and is none.
                Ok(len) if (LEAST_BYTES..=MOST_BYTES).contains(&len) => {
                    self.receive_limit.spend(len as u64);
                    self.packet_len = len;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => {}
                    _ if error.raw_os_error() == Some(libc::EBADFD) => return Waits::Forever,
                    _ => self.metrics.receive_errors += 1,
                },
                Ok(_) => self.metrics.receive_errors += 1,
            }
            return Waits::Packet;
        }
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
        ]
        .into_iter()
        .chain(self.mac.map(|_| VIRTIO_NET_F_MAC))
        .fold(0, |all, feature| all | 1 << feature)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> Vec<u8> {
        self.mac.unwrap_or_default().into()
    }

    fn sources(&self) -> Vec<RawFd> {
        self.sources().map(|(_, fd)| fd).collect()
    }

    fn wants(&self, source: usize) -> bool {
        // While there is no room, or no allowance, packets wait in the interface's queue.
        self.source(source) != Some(Source::Tap) || self.waits == Waits::Packet
    }

    fn start(&mut self, features: u64, _guest: &mut Guest<'_>) -> Result<(), Broken> {
        self.features = Some(features);
        self.tap
            .set_offload(features)
            .map_err(|error| Broken(format!("the tap interface refuses offloads: {error}")))
    }

    fn notified(&mut self, queue: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match queue {
            RECEIVE => self.receive(guest),
            _ => self.send(guest),
        }
    }

    fn ready(&mut self, source: usize, guest: &mut Guest<'_>) -> Result<(), Broken> {
        match self.source(source) {
            Some(Source::SendLimit) => {
                self.send_limit.woken();
                self.send(guest)
            }
            Some(Source::ReceiveLimit) => {
                self.receive_limit.woken();
                self.receive(guest)
            }
            _ => self.receive(guest),
        }
    }

    fn reset(&mut self) {
        self.features = None;
        self.packet_len = 0;
        self.waits = Waits::Packet;
        // An interface that is gone has nothing to take back.
        let _ = self.tap.set_offload(0);
    }

    fn metrics(&self) -> serde_json::Value {
        let metrics = Metrics {
            receive_held_back: self.receive_limit.held_back(),
            send_held_back: self.send_limit.held_back(),
            ..self.metrics
        };
        serde_json::to_value(metrics).unwrap_or_default()
    }
}
