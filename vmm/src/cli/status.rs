//! A line at the foot of the terminal that says how things stand, and stays out of the console's way.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Where status goes: a line that is rewritten on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(super) struct StatusLine {
    terminal: bool,
    shown: Mutex<String>,
}

const CLEAR: &str = "\r\x1b[2K";

impl StatusLine {
    /// On stderr.
    pub(super) fn on_stderr() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            shown: Mutex::default(),
        }
    }

    /// Whether the line is rewritten in place.
    pub(super) fn is_live(&self) -> bool {
        self.terminal
    }

    /// Shows `text`: in place of the last on a terminal, as a line of its own elsewhere.
    pub(super) fn show(&self, text: String) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal {
            print(&format!("{CLEAR}{text}"));
            *shown = text;
        } else {
            print(&format!("gmem: {text}\n"));
        }
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, text: &str) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let (clear, again) = if self.terminal {
            (CLEAR, shown.as_str())
        } else {
            ("", "")
        };
        print(&format!("{clear}gmem: {text}\n{again}"));
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal && !shown.is_empty() {
            print(CLEAR);
            shown.clear();
        }
    }

    /// A writer to `output` that takes the line away before it writes, and puts it back after a whole
    /// line.
    pub(super) fn beside<W: Write>(self: &Arc<Self>, output: W) -> impl Write + use<W> {
        Beside {
            status: Arc::clone(self),
            output,
        }
    }
}

/// Not `eprint`, which panics where stderr is closed. One write, so that lines of several processes on
/// one terminal do not mix.
fn print(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

struct Beside<W> {
    status: Arc<StatusLine>,
    output: W,
}

impl<W: Write> Write for Beside<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.status.terminal {
            return self.output.write(bytes);
        }
        {
            let shown = self
                .status
                .shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !shown.is_empty() {
                print(CLEAR);
            }
        }
        let written = self.output.write(bytes)?;
        if bytes[..written].ends_with(b"\n") {
            self.output.flush()?;
            let shown = self
                .status
                .shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            print(&shown);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
