//! virtio-vsock (virtio 1.2, 5.10): streams between the guest's programs and the host's.
//!
//! | file | part |
//! |---|---|
//! | `device` | the device and its three queues |
//! | `request` | one packet |
//! | `hub` | all connections, and who has something for the guest |
//! | `connection` | one connection: a stream of the host and what the guest knows of it |
//! | `host` | Unix sockets, by the same convention as Firecracker's |
//! | `metrics`, `state` | counters; what a snapshot needs |
//!
//! The host's programs reach the guest through a Unix socket: they connect, send `CONNECT 52` and a newline, and are
//! answered `OK` with a number and a newline when the guest's port 52 has accepted. The guest's programs reach host (cid
//! 2) port 52 if somebody listens at the same path with `_52` behind it.
//!
//! Neither side makes the device keep much: the guest may send as much as the device has room for, by connection, and
//! nothing is read from the host before the guest has room. Packets against the rules end their connection.

mod connection;
mod device;
mod host;
mod hub;
mod metrics;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use device::Vsock;
pub use host::{SocketFile, VsockError};
pub use metrics::Metrics;
pub use request::HOST_CID;
pub use state::{OtherCid, State};
