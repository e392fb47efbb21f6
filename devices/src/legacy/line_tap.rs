//! Passes the guest's console on, by lines or at once, and keeps the line with the guest's result.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest line, in bytes, that is held back until its end; a longer one is passed on in pieces and
/// is never taken for a result. Bounds what a hostile guest can make the monitor keep.
pub const MAX_LINE: usize = 64 * 1024;

/// How the line with the bundled guest's result begins.
pub const RESULT_PREFIX: &[u8] = br#"{"workload":"#;

/// The guest's last result line, shared between the console and whoever writes the report.
#[derive(Clone, Debug, Default)]
pub struct ResultLine(Arc<Mutex<Option<Vec<u8>>>>);

impl ResultLine {
    /// The line without its end of line, as the guest wrote it; `None` if there was none so far.
    pub fn get(&self) -> Option<Vec<u8>> {
        self.lock().clone()
    }

    fn set(&self, line: Vec<u8>) {
        *self.lock() = Some(line);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        // A line is replaced whole, so a panic elsewhere cannot have left half of one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sink for the console's bytes.
///
/// Its `flush` does nothing: a UART model flushes after each byte, which would undo the buffering.
/// [`LineTap::finish`] passes on an unfinished last line.
#[derive(Debug)]
pub struct LineTap<W: Write> {
    out: Option<W>,
    line: Vec<u8>,
    /// How much of the current line was passed on already.
    passed: usize,
    at_once: bool,
    /// Pieces of the current line were already passed on, because it is too long.
    overlong: bool,
    result: ResultLine,
}

impl<W: Write> LineTap<W> {
    /// Passes lines to `out`. An output that fails is given up: the guest goes on without it.
    pub fn new(out: W) -> Self {
        Self {
            out: Some(out),
            line: Vec::new(),
            passed: 0,
            at_once: false,
            overlong: false,
            result: ResultLine::default(),
        }
    }

    /// The same, with unfinished lines too: for who is to answer a prompt, and to see what is typed.
    pub fn at_once(out: W) -> Self {
        Self {
            at_once: true,
            ..Self::new(out)
        }
    }

    /// Where the guest's result will be found.
    pub fn result(&self) -> ResultLine {
        self.result.clone()
    }

    /// Passes on what the guest wrote after its last end of line.
    pub fn finish(&mut self) {
        self.pass_on();
    }

    fn push(&mut self, byte: u8) {
        self.line.push(byte);
        if byte == b'\n' {
            if !self.overlong && self.line.starts_with(RESULT_PREFIX) {
                self.result.set(self.line.trim_ascii_end().to_vec());
            }
            self.overlong = false;
            self.end_line();
        } else if self.line.len() >= MAX_LINE {
            self.overlong = true;
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        self.pass_on();
        self.line.clear();
        self.passed = 0;
    }

    fn pass_on(&mut self) {
        let new = &self.line[self.passed..];
        if let Some(out) = &mut self.out
            && !new.is_empty()
            && out.write_all(new).and_then(|()| out.flush()).is_err()
        {
            self.out = None;
        }
        self.passed = self.line.len();
    }
}

impl<W: Write> Write for LineTap<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.push(byte));
        if self.at_once {
            self.pass_on();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_at_once_when_it_is_complete() {
        let sink = Sink::default();
        let mut tap = LineTap::new(sink.clone());
        for byte in b"one\ntw" {
            tap.write_all(&[*byte]).unwrap();
            tap.flush().unwrap();
        }
        assert_eq!(*sink.0.lock().unwrap(), [b"one\n".to_vec()]);
        tap.finish();
        assert_eq!(*sink.0.lock().unwrap(), [b"one\n".to_vec(), b"tw".to_vec()]);
    }

    #[test]
    fn a_prompt_is_seen_before_its_line_ends_and_what_ends_it_may_be_a_result() {
        let sink = Sink::default();
        let mut tap = LineTap::at_once(sink.clone());
        let result = b"{\"workload\":1}\n";
        for byte in b"# ls\n".iter().chain(result) {
            tap.write_all(&[*byte]).unwrap();
            assert_eq!(sink.0.lock().unwrap().concat().last(), Some(byte));
        }
        tap.finish();
        assert_eq!(sink.0.lock().unwrap().concat(), b"# ls\n{\"workload\":1}\n");
        assert_eq!(tap.result().get().unwrap(), b"{\"workload\":1}");
    }

    #[test]
    fn the_last_result_line_is_kept_without_its_end() {
        let mut tap = LineTap::new(io::sink());
        tap.write_all(b"{\"workload\":\"scan\"}\nx {\"workload\":1}\n")
            .unwrap();
        tap.write_all(b"{\"workload\":\"verify\"}\r\nbye\n")
            .unwrap();
        assert_eq!(
            tap.result().get().unwrap(),
            br#"{"workload":"verify"}"#.to_vec()
        );
    }

    #[test]
    fn an_unfinished_result_line_is_no_result() {
        let mut tap = LineTap::new(io::sink());
        tap.write_all(b"{\"workload\":\"scan\"}").unwrap();
        tap.finish();
        assert_eq!(tap.result().get(), None);
    }

    #[test]
    fn an_endless_line_is_passed_on_in_pieces_and_kept_within_its_bound() {
        let sink = Sink::default();
        let mut tap = LineTap::new(sink.clone());
        tap.write_all(RESULT_PREFIX).unwrap();
        for _ in 0..5 * MAX_LINE {
            tap.write_all(b"a").unwrap();
            assert!(tap.line.len() < MAX_LINE);
        }
        assert!(tap.line.capacity() <= 2 * MAX_LINE);
        tap.write_all(b"\n").unwrap();
        assert_eq!(tap.result().get(), None, "an overlong line is no result");
        let passed: usize = sink.0.lock().unwrap().iter().map(Vec::len).sum();
        assert_eq!(passed, RESULT_PREFIX.len() + 5 * MAX_LINE + 1);
        tap.write_all(b"{\"workload\":1}\n").unwrap();
        assert!(tap.result().get().is_some(), "the next line counts again");
    }

    #[test]
    fn a_closed_output_does_not_lose_the_result() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut tap = LineTap::new(Closed);
        tap.write_all(b"hello\n{\"workload\":1}\n").unwrap();
        assert!(tap.result().get().is_some());
    }
}
