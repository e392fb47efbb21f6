//! Sockets as streams.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::stream::{PATIENCE, Stream};

/// The kernel looks so often whether a moment has passed.
const TICK: Duration = Duration::from_millis(20);

/// A socket of any kind that carries a stream.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    /// Of a connected socket.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(TICK))?;
        sockopt::set_socket_timeout(&socket, Timeout::Send, Some(TICK))?;
        Ok(Self(socket))
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

impl Stream for Socket {
    fn read(&self, into: &mut [u8], until: Option<Instant>) -> io::Result<Option<usize>> {
        loop {
            let late = until.is_some_and(|until| until <= Instant::now());
            let flags = if late {
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            match rustix::net::recv(&self.0, &mut *into, flags) {
                Ok((count, _)) => return Ok(Some(count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if late => return Ok(None),
                Err(Errno::AGAIN) => {}
                Err(Errno::CONNRESET) => return Ok(Some(0)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&self, parts: [&[u8]; 3]) -> io::Result<()> {
        let mut slices = parts.map(IoSlice::new);
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        let mut patience = Instant::now() + PATIENCE;
        while !left.is_empty() {
            let mut nothing = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self.0.as_fd(), left, &mut nothing, SendFlags::NOSIGNAL) {
                Ok(count) => {
                    IoSlice::advance_slices(&mut left, count);
                    patience = Instant::now() + PATIENCE;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < patience => {}
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn shut(&self) {
        // One that is not connected any more has ended.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}
