//! Over a Unix socket, with the pages' bytes in memory that both sides see.
//!
//! Before any message the server sends one byte: 1 with the descriptor of its memory, which it has sealed against shrinking and growing
//! (a client that shrank it could make the server fail at an access), or 0 without.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use pager_wire::MAX_DATA;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::SharedMemory;
use super::socket::Socket;
use super::stream::StreamChannel;

/// Slots of the shared memory: requests of one client under way at once.
pub const SLOTS: u32 = 8;

/// How long a server may take to say whether it shares memory.
const GREETING: Duration = Duration::from_secs(10);

/// Connects to the server that listens at `path`.
pub fn connect(path: &Path) -> io::Result<StreamChannel<impl super::stream::Stream + use<>>> {
    channel(UnixStream::connect(path)?)
}

/// The client's side of a connection.
pub fn channel(
    stream: UnixStream,
) -> io::Result<StreamChannel<impl super::stream::Stream + use<>>> {
    let socket = Socket::new(stream.into())?;
    let memory = match greeting(socket.fd())? {
        Some(fd) => Some(SharedMemory::given(fd, SLOTS as usize * MAX_DATA)?),
        None => None,
    };
    Ok(StreamChannel::new(socket, memory))
}

/// The server's side of a connection.
pub fn accept(stream: UnixStream) -> io::Result<StreamChannel<impl super::stream::Stream + use<>>> {
    let memory = SharedMemory::sealed(c"gmem-pager", SLOTS as usize * MAX_DATA)?;
    let socket = Socket::new(stream.into())?;
    let fds = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    with.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(
        socket.fd(),
        &[IoSlice::new(&[1])],
        &mut with,
        SendFlags::NOSIGNAL,
    )?;
    Ok(StreamChannel::new(socket, Some(memory)))
}

/// The server's side of a connection without shared memory: pages' bytes are in the messages.
pub fn accept_plain(
    stream: UnixStream,
) -> io::Result<StreamChannel<impl super::stream::Stream + use<>>> {
    let socket = Socket::new(stream.into())?;
    rustix::net::send(socket.fd(), &[0], SendFlags::NOSIGNAL)?;
    Ok(StreamChannel::new(socket, None))
}

/// The memory that the server offers.
fn greeting(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let unexpected = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let until = Instant::now() + GREETING;
    loop {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut with = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(socket, into, &mut with, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR | Errno::AGAIN) if Instant::now() < until => continue,
            Err(Errno::AGAIN) => {
                return Err(unexpected("nobody greets there: not a pager's socket?"));
            }
            Err(error) => return Err(error.into()),
            Ok(received) if received.bytes == 0 => {
                return Err(unexpected("the server ended the connection at once"));
            }
            Ok(_) => {}
        }
        let fd = with.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        return match (byte[0], fd) {
            (1, Some(fd)) => Ok(Some(fd)),
            (0, None) => Ok(None),
            _ => Err(unexpected("what greets there is not a pager")),
        };
    }
}
