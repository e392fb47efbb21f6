//! One client of the control socket: bytes in, lines out. Never blocks.

use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::protocol::{self, MAX_LINE, RequestError};

/// How long a client has to send its next request, whole, or to take its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    peer: String,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Its last request, or when it came.
    since: Instant,
    /// No more requests are taken: the connection ends when the answers are out.
    closing: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            peer: peer(&stream),
            stream,
            input: Vec::new(),
            output: Vec::new(),
            since: Instant::now(),
            closing: false,
        })
    }

    /// Who it is, in words.
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// What to wait for.
    pub(super) fn events(&self) -> libc::c_short {
        if self.output.is_empty() {
            libc::POLLIN
        } else {
            libc::POLLOUT
        }
    }

    /// Whether a request is here already, so that there is nothing to wait for.
    pub(super) fn has_request(&self) -> bool {
        self.output.is_empty() && self.input.contains(&b'\n')
    }

    /// How long it may still take.
    pub(super) fn time_left(&self) -> Duration {
        PATIENCE.saturating_sub(self.since.elapsed())
    }

    /// Reads and writes what it can and answers one request, so that every client has its turn; `false`: the
    /// connection is over.
    pub(super) fn turn(&mut self, answer: impl FnOnce(&Self, &[u8]) -> Vec<u8>) -> bool {
        if self.flush().is_err() {
            return false;
        }
        if self.output.is_empty() {
            if !self.has_request() && !self.closing && self.fill().is_err() {
                return false;
            }
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                self.output = answer(self, &line[..end]);
                self.since = Instant::now();
            } else if self.input.len() >= MAX_LINE {
                self.output = protocol::failed(&RequestError::TooLong);
                self.input.clear();
                self.closing = true;
            }
            if self.flush().is_err() {
                return false;
            }
        }
        let over = self.closing && self.output.is_empty() && self.input.is_empty();
        !over && !self.time_left().is_zero()
    }

    /// Reads as much as a request may have.
    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; MAX_LINE];
        let room = MAX_LINE - self.input.len();
        match self.stream.read(&mut bytes[..room]) {
            Ok(0) => {
                // A client may close its side instead of ending its last line.
                if self.input.last().is_some_and(|&byte| byte != b'\n') {
                    self.input.push(b'\n');
                }
                self.closing = true;
                Ok(())
            }
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                Ok(())
            }
            Err(error) => not_yet(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) => return not_yet(error),
            }
        }
        Ok(())
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// Errors that only say to come back later are none.
fn not_yet(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// Process and user at the other end.
fn peer(stream: &UnixStream) -> String {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = mem::size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the buffer is writable and has the length given.
    let rc = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if rc < 0 {
        return "an unknown process".into();
    }
    format!("process {} of user {}", peer.pid, peer.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each request with itself.
    fn echo(_: &Connection, line: &[u8]) -> Vec<u8> {
        [line, b"!\n"].concat()
    }

    fn pair() -> (UnixStream, Connection) {
        let (client, server) = UnixStream::pair().unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        (client, Connection::new(server).unwrap())
    }

    #[test]
    fn requests_in_one_write_are_answered_in_turn() {
        let (mut client, mut connection) = pair();
        client.write_all(b"a\nb\nc").unwrap();
        assert!(connection.turn(echo));
        assert!(connection.has_request());
        assert!(connection.turn(echo));
        assert!(!connection.has_request());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        // The end of its side ends the last line.
        assert!(!connection.turn(echo));
        drop(connection);
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert_eq!(answers, "a!\nb!\nc!\n");
    }

    #[test]
    fn a_line_without_an_end_is_refused_and_the_connection_closed() {
        let (mut client, mut connection) = pair();
        client.write_all(&[b'x'; MAX_LINE + 10]).unwrap();
        assert!(!connection.turn(echo));
        drop(connection);
        let mut answer = vec![0; MAX_LINE];
        let count = client.read(&mut answer).unwrap();
        assert!(
            String::from_utf8_lossy(&answer[..count]).contains("longer than 4096 bytes"),
            "{answer:?}"
        );
    }

    #[test]
    fn a_client_that_takes_no_answers_is_asked_for_no_more_requests() {
        let (mut client, mut connection) = pair();
        client.write_all(b"a\nb\n").unwrap();
        assert!(connection.turn(|_, _| vec![b'.'; 16 << 20]));
        assert_eq!(connection.events(), libc::POLLOUT);
        assert!(!connection.has_request());
        connection.since = Instant::now() - PATIENCE;
        assert!(!connection.turn(echo), "its time is over");
    }
}
