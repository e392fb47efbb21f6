//! A bounded buffer before an output that may block.
//!
//! A thread of its own writes, so that an output that nobody reads (a stopped terminal, a full pipe) holds neither
//! the device nor its guest. What does not fit pushes out the oldest: the last words are the interesting ones.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that wait for the output, at most.
pub const BUFFER_SIZE: usize = 64 << 10;
/// How long the end waits for an output.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long to wait before an output that would block is asked again.
const PAUSE: Duration = Duration::from_millis(5);

/// The device's side of the buffer. Dropping it writes what is left, if the output takes it in time.
pub(super) struct Output(Arc<Shared>);

struct Shared {
    buffer: Mutex<Buffer>,
    changed: Condvar,
}

#[derive(Default)]
struct Buffer {
    bytes: VecDeque<u8>,
    dropped: u64,
    /// Nothing more comes.
    closing: bool,
    /// The writer is gone: its output failed, or everything is written.
    done: bool,
}

impl Output {
    /// Starts writing to `out`.
    pub(super) fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("console-out".into())
            .spawn(move || {
                theirs.write(out);
                theirs.lock().done = true;
                theirs.changed.notify_all();
            })?;
        Ok(Self(shared))
    }

    /// Takes `bytes`, at the cost of older ones if need be.
    pub(super) fn push(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock();
        if buffer.done {
            buffer.dropped += bytes.len() as u64;
            return;
        }
        buffer.bytes.extend(bytes);
        let excess = buffer.bytes.len().saturating_sub(BUFFER_SIZE);
        buffer.bytes.drain(..excess);
        buffer.dropped += excess as u64;
        self.0.changed.notify_all();
    }

    /// Bytes that were lost.
    pub(super) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut buffer = self.0.lock();
        buffer.closing = true;
        self.0.changed.notify_all();
        let end = self
            .0
            .changed
            .wait_timeout_while(buffer, LAST_WORDS, |buffer| !buffer.done);
        drop(end);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer, until nothing more comes or the output fails.
    fn write(&self, mut out: Box<dyn Write + Send>) {
        loop {
            let buffer = self.lock();
            let waited = self
                .changed
                .wait_while(buffer, |buffer| buffer.bytes.is_empty() && !buffer.closing);
            let mut buffer = waited.unwrap_or_else(PoisonError::into_inner);
            let bytes: Vec<u8> = std::mem::take(&mut buffer.bytes).into();
            drop(buffer);
            if bytes.is_empty() {
                return;
            }
            if let Err(left) = self.write_all(&mut out, &bytes) {
                self.lock().dropped += left as u64;
                return;
            }
        }
    }

    /// Writes all of `bytes`, also to an output that would rather not block; what is left where it fails.
    fn write_all(&self, out: &mut dyn Write, mut bytes: &[u8]) -> Result<(), usize> {
        let mut deadline = None;
        while !bytes.is_empty() {
            match out.write(bytes) {
                Ok(0) => return Err(bytes.len()),
                Ok(len) => bytes = &bytes[len..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let closing = self.lock().closing;
                    let end = deadline.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                    if closing && Instant::now() > *end {
                        return Err(bytes.len());
                    }
                    thread::sleep(PAUSE);
                }
                Err(_) => return Err(bytes.len()),
            }
        }
        // What cannot be flushed shows at the next write.
        let _ = out.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Tells what it is given; takes it when it is told to.
    struct Slow(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            self.1.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_blocks_costs_the_oldest_bytes_and_holds_nobody() {
        let (told, seen) = channel();
        let (go, gone) = channel();
        let output = Output::new(Box::new(Slow(told, gone))).unwrap();
        output.push(b"first");
        assert_eq!(seen.recv().unwrap(), b"first");
        // The writer is stuck now.
        output.push(&[b'a'; 1000]);
        output.push(&[b'b'; BUFFER_SIZE - 10]);
        assert_eq!(output.dropped(), 990);
        go.send(()).unwrap();
        let mut expected = vec![b'a'; 10];
        expected.extend([b'b'; BUFFER_SIZE - 10]);
        assert_eq!(seen.recv().unwrap(), expected);
        // An output that stays stuck does not hold the end for long.
        let began = Instant::now();
        drop(output);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_output_that_would_block_is_asked_again() {
        struct Shy(Sender<Vec<u8>>, bool);
        impl Write for Shy {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.0.send(bytes[..1].to_vec()).unwrap();
                Ok(1)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (told, seen) = channel();
        let output = Output::new(Box::new(Shy(told, false))).unwrap();
        output.push(b"abc");
        drop(output);
        assert_eq!(seen.iter().collect::<Vec<_>>().concat(), b"abc");
    }

    #[test]
    fn an_output_that_fails_is_given_up_and_what_follows_is_counted() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let output = Output::new(Box::new(Closed)).unwrap();
        output.push(b"12345");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !output.0.lock().done {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        output.push(b"678");
        assert_eq!(output.dropped(), 8);
    }
}
