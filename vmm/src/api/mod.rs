//! Control of a running microVM, over a Unix socket.
//!
//! [`protocol`] says what can be asked and what is answered, one JSON object a line. [`Socket`](crate::socket::Socket) makes the
//! socket's file and removes it, [`server`] serves it with one thread for all clients. The other side is
//! `gmem ctl`. For people, the protocol is described in `docs/control.md`.

mod connection;
pub mod protocol;
pub mod server;
