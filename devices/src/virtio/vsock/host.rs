//! The host's side: Unix sockets, by the same convention as Firecracker's.
//!
//! - Who wants to reach the guest's port 52 connects to the socket, sends `CONNECT 52` and a newline, and is answered
//!   `OK` with the host's port number and a newline as soon as the guest has accepted; if it has not, the stream ends.
//! - Who waits for connections of the guest to the host's port 52 listens at the socket's path with `_52` behind it.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, bytes, without its end.
const LONGEST_PATH: usize = 107;
/// An underscore and a port.
const LONGEST_SUFFIX: usize = 11;
/// The longest first line, without its newline: the word, a space, a port, and a carriage return.
const LONGEST_LINE: usize = 19;

/// Why there is no vsock.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// An address that is somebody else's.
    #[error("a guest cannot have cid {0}: 3 to 4294967294 are possible")]
    Cid(u64),
    /// Linux has no such paths.
    #[error("'{}' is too long for a socket: {len} bytes, {} are possible", path.display(), LONGEST_PATH - LONGEST_SUFFIX)]
    LongPath {
        /// What was asked for.
        path: PathBuf,
        /// Its length, bytes.
        len: usize,
    },
    /// Something is there.
    #[error("'{}' exists: stop the microVM that uses it, or remove it", .0.display())]
    Exists(PathBuf),
    /// Anything else.
    #[error("socket '{}': {cause}; give a path in a directory that exists and is writable", path.display())]
    Socket {
        /// What was asked for.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
}

/// The socket at which the host's programs ask for connections. Its file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Host {
    path: PathBuf,
    listener: UnixListener,
    file: SocketFile,
}

/// A socket's file, for who ends the microVM: where a thread is stuck beneath it, nothing is dropped.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        })
    }

    /// Removes the file, unless it is gone or another has taken its place: nobody can connect any more.
    pub fn remove(&self) {
        if Self::of(&self.path).is_ok_and(|found| found.identity == self.identity) {
            // Nothing to be done where it fails.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Host {
    pub(super) fn new(path: &Path) -> Result<Self, VsockError> {
        let len = path.as_os_str().len();
        let path = path.to_owned();
        if len > LONGEST_PATH - LONGEST_SUFFIX {
            return Err(VsockError::LongPath { path, len });
        }
        if is_dead(&path) {
            // Where it fails, binding says so.
            let _ = fs::remove_file(&path);
        }
        let bound = UnixListener::bind(&path).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener, SocketFile::of(&path)?))
        });
        match bound {
            Ok((listener, file)) => Ok(Self {
                path,
                listener,
                file,
            }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(VsockError::Exists(path)),
            Err(cause) => Err(VsockError::Socket { path, cause }),
        }
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn file(&self) -> &SocketFile {
        &self.file
    }

    /// The next program that asks, if there is one.
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Reaches who listens to the host's `port`, at once or not at all.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!("_{port}"));
        connect(path.as_bytes())
    }
}

/// Whether a microVM that was killed has left its socket at `path`: nobody listens.
fn is_dead(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
        && connect(path.as_os_str().as_bytes())
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl Drop for Host {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Connects to a Unix socket without waiting for the other side to accept: the standard library's would.
fn connect(path: &[u8]) -> io::Result<UnixStream> {
    // SAFETY: zeros are a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: an address of its length.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } {
        0 => Ok(socket.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A program that has connected and not yet said to which port.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: UnixStream,
    line: Vec<u8>,
}

/// What a caller has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The guest's port.
    Port(u32),
    /// Not all of it yet.
    NotYet,
    /// Nothing that makes sense, and it is gone.
    Nonsense,
}

impl Caller {
    pub(super) fn new(stream: UnixStream) -> Self {
        let line = Vec::new();
        Self { stream, line }
    }

    /// Reads on, and not beyond the line: what follows is the guest's.
    pub(super) fn listen(&mut self) -> Said {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte == *b"\n" => return parse(&self.line),
                Ok(1) if self.line.len() < LONGEST_LINE => self.line.extend(byte),
                Ok(_) => return Said::Nonsense,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => continue,
                    ErrorKind::WouldBlock => return Said::NotYet,
                    _ => return Said::Nonsense,
                },
            }
        }
    }
}

/// The port in the line of a caller.
fn parse(line: &[u8]) -> Said {
    let port = std::str::from_utf8(line).ok().and_then(|line| {
        let (word, port) = line.trim_end().split_once(' ')?;
        let port = port.parse().ok()?;
        word.eq_ignore_ascii_case("connect").then_some(port)
    });
    port.map_or(Said::Nonsense, Said::Port)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_socket_that_another_has_put_in_its_place_stays() {
        let name = format!("gmem-vsock-{}-taken", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        let first = Host::new(&path).unwrap();
        first.file().remove();
        assert!(!path.exists());
        let second = Host::new(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced() {
        let path = std::env::temp_dir().join(format!("gmem-vsock-{}-dead", std::process::id()));
        let _ = fs::remove_file(&path);
        drop(UnixListener::bind(&path).unwrap());
        let host = Host::new(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let refused = Host::new(&path);
        assert!(matches!(refused, Err(VsockError::Exists(_))), "{refused:?}");
        drop(host);
        assert!(!path.exists());
    }

    #[test]
    fn the_first_line_names_the_port_and_nothing_else_does() {
        assert_eq!(parse(b"CONNECT 52"), Said::Port(52));
        assert_eq!(parse(b"connect 4294967295\r"), Said::Port(u32::MAX));
        for line in [
            &b"CONNECT"[..],
            b"CONNECT x",
            b"52",
            b"",
            b"CONNECT 4294967296",
            b"\xff 1",
        ] {
            assert_eq!(parse(line), Said::Nonsense);
        }
    }

    #[test]
    fn a_line_may_come_in_pieces_and_what_follows_stays() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut caller = Caller::new(ours);
        theirs.write_all(b"CONN").unwrap();
        assert_eq!(caller.listen(), Said::NotYet);
        theirs.write_all(b"ECT 7\nhello").unwrap();
        assert_eq!(caller.listen(), Said::Port(7));
        let mut rest = [0; 16];
        assert_eq!(caller.stream.read(&mut rest).unwrap(), 5);
    }

    #[test]
    fn a_caller_who_goes_on_and_on_is_not_listened_to() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.write_all(&[b'x'; 100]).unwrap();
        assert_eq!(Caller::new(ours).listen(), Said::Nonsense);
    }
}
