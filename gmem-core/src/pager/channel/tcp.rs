//! Over TCP, plainly: for networks that nobody else is on. See [`tls`](super::tls) for others.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::socket::Socket;
use super::stream::{Stream, StreamChannel};

/// Connects to `address` (`host:port`), for as long as `patience` with each address that it has.
pub fn connect(
    address: &str,
    patience: Duration,
) -> io::Result<StreamChannel<impl Stream + use<>>> {
    channel(dial(address, patience)?)
}

/// Over a connection that is there.
pub fn channel(stream: TcpStream) -> io::Result<StreamChannel<impl Stream + use<>>> {
    Ok(StreamChannel::new(prepared(stream)?, None))
}

/// A socket whose messages leave at once.
pub(super) fn prepared(stream: TcpStream) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    Socket::new(stream.into())
}

/// Connects to the first of the addresses that answers.
pub(super) fn dial(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
