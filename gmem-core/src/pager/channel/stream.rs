//! Messages over a stream of bytes.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pager_wire::{HEADER_LEN, Header};
use zerocopy::{FromBytes, IntoBytes};

use super::{Channel, ChannelError, Received, SharedMemory};

/// A stream of bytes in each direction.
pub trait Stream: Send + Sync {
    /// Reads what there is, at least a byte, waiting until a moment or without limit. `None` if nothing came; 0 if the other
    /// side has closed.
    fn read(&self, into: &mut [u8], until: Option<Instant>) -> io::Result<Option<usize>>;

    /// Writes all of these parts; never called by two threads at once. An error of kind `TimedOut` if the other side takes
    /// nothing for long.
    fn write(&self, parts: [&[u8]; 3]) -> io::Result<()>;

    /// Ends both directions.
    fn shut(&self);
}

/// How long the rest of a message that has begun may take between two parts of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Small messages are read by one system call.
const BUFFER: usize = 4096;

/// A channel over a stream.
pub struct StreamChannel<S> {
    stream: S,
    memory: Option<SharedMemory>,
    sending: Mutex<()>,
    incoming: Mutex<Incoming>,
}

/// What has been read from the stream and not yet asked for.
struct Incoming {
    buffer: Box<[u8; BUFFER]>,
    at: usize,
    end: usize,
    /// Bytes of the last message's data that have not been received.
    data_left: usize,
}

impl<S: Stream> StreamChannel<S> {
    /// Over `stream`, beside which the other side may see `memory`.
    pub fn new(stream: S, memory: Option<SharedMemory>) -> Self {
        Self {
            stream,
            memory,
            sending: Mutex::new(()),
            incoming: Mutex::new(Incoming {
                buffer: Box::new([0; BUFFER]),
                at: 0,
                end: 0,
                data_left: 0,
            }),
        }
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads all of `into`, the rest of a message that has begun.
    fn read_all(&self, incoming: &mut Incoming, into: &mut [u8]) -> Result<(), ChannelError> {
        let there = into.len().min(incoming.end - incoming.at);
        into[..there].copy_from_slice(&incoming.buffer[incoming.at..][..there]);
        incoming.at += there;
        let mut done = there;
        while done < into.len() {
            match self
                .stream
                .read(&mut into[done..], Some(Instant::now() + PATIENCE))?
            {
                None => return Err(ChannelError::Stalled),
                Some(0) => return Err(ChannelError::Closed),
                Some(count) => done += count,
            }
        }
        Ok(())
    }

    fn skip_data(&self, incoming: &mut Incoming) -> Result<(), ChannelError> {
        let mut nowhere = [0; BUFFER];
        while incoming.data_left > 0 {
            let part = incoming.data_left.min(BUFFER);
            self.read_all(incoming, &mut nowhere[..part])?;
            incoming.data_left -= part;
        }
        Ok(())
    }

    /// Reads until there is a whole header in the buffer; `None` if nothing came.
    fn read_header(
        &self,
        incoming: &mut Incoming,
        until: Option<Instant>,
    ) -> Result<Option<Header>, ChannelError> {
        incoming.buffer.copy_within(incoming.at..incoming.end, 0);
        incoming.end -= incoming.at;
        incoming.at = 0;
        while incoming.end < HEADER_LEN {
            let begun = incoming.end > 0;
            let until = match begun {
                true => Some(Instant::now() + PATIENCE),
                false => until,
            };
            match self
                .stream
                .read(&mut incoming.buffer[incoming.end..], until)?
            {
                None if begun => return Err(ChannelError::Stalled),
                None => return Ok(None),
                Some(0) => return Err(ChannelError::Closed),
                Some(count) => incoming.end += count,
            }
        }
        incoming.at = HEADER_LEN;
        let header = Header::read_from_bytes(&incoming.buffer[..HEADER_LEN]);
        Ok(header.ok())
    }
}

impl<S: Stream> Channel for StreamChannel<S> {
    fn send(&self, header: Header, head: &[u8], data: &[u8]) -> Result<(), ChannelError> {
        let header = Header {
            head_len: (head.len() as u32).into(),
            data_len: (data.len() as u32).into(),
            ..header
        };
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream
            .write([header.as_bytes(), head, data])
            .map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => ChannelError::Stalled,
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ChannelError::Closed,
                _ => ChannelError::Io(error),
            })
    }

    fn receive(
        &self,
        until: Option<Instant>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Received>, ChannelError> {
        let mut incoming = self.incoming();
        let incoming = &mut *incoming;
        self.skip_data(incoming)?;
        let Some(header) = self.read_header(incoming, until)? else {
            return Ok(None);
        };
        let (kind, status) = header.check()?;
        head.resize(header.head_len.get() as usize, 0);
        self.read_all(incoming, head)?;
        incoming.data_left = header.data_len.get() as usize;
        Ok(Some(Received {
            header,
            kind,
            status,
        }))
    }

    fn receive_data(&self, into: &mut [u8]) -> Result<(), ChannelError> {
        let mut incoming = self.incoming();
        assert!(
            into.len() <= incoming.data_left,
            "more than the message has"
        );
        incoming.data_left -= into.len();
        self.read_all(&mut incoming, into)
    }

    fn memory(&self) -> Option<&SharedMemory> {
        self.memory.as_ref()
    }

    fn close(&self) {
        self.stream.shut();
    }
}

impl<S> std::fmt::Debug for StreamChannel<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamChannel")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}
