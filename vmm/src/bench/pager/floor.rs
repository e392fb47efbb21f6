//! The least that could carry pages.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use super::{BATCH_BYTES, rate, typical};

/// Bytes of a request for one page and of its answer, without the page.
const MESSAGE: usize = 80;

/// Memory that batches are copied from.
pub(super) struct Source {
    bytes: Vec<u8>,
    into: Vec<u8>,
    next: usize,
}

impl Source {
    pub(super) fn new(memory: usize) -> Self {
        Self {
            bytes: (0..memory).map(|at| at as u8 | 1).collect(),
            into: vec![0; super::ours::DEPTH * BATCH_BYTES],
            next: 0,
        }
    }

    /// Copies batches, here and there in the memory.
    pub(super) fn copy(&mut self, time: Duration) -> f64 {
        let copied = rate(time, || {
            let from = super::ours::place(self.next, self.bytes.len());
            let to = self.next % super::ours::DEPTH * BATCH_BYTES;
            self.into[to..to + BATCH_BYTES].copy_from_slice(&self.bytes[from..from + BATCH_BYTES]);
            std::hint::black_box(&mut self.into);
            self.next += 1;
            Ok(BATCH_BYTES)
        });
        copied.unwrap_or(f64::NAN)
    }
}

/// A message to another thread and back.
pub(super) fn pingpong(time: Duration) -> io::Result<f64> {
    let (mut near, mut far) = UnixStream::pair()?;
    let echo = thread::spawn(move || {
        let mut message = [0; MESSAGE];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    });
    let mut message = [0; MESSAGE];
    let found = typical(time, || {
        near.write_all(&message)?;
        near.read_exact(&mut message)
    });
    drop(near);
    let _ = echo.join();
    found
}

/// One thread sends batches, another receives them.
pub(super) fn tcp(time: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    far.set_nodelay(true)?;
    let sends = thread::spawn(move || {
        let batch = vec![1; BATCH_BYTES];
        while far.write_all(&batch).is_ok() {}
    });
    let mut into = vec![0; BATCH_BYTES];
    let found = rate(time, || near.read_exact(&mut into).map(|()| BATCH_BYTES));
    drop(near);
    let _ = sends.join();
    found
}
