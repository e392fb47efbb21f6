//! A line at the foot of the terminal that says how things stand, and stays out of the console's way.

use std::io::{self, IsTerminal, Write};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::stderr;

/// How long stderr has to take what is said. Nobody waits longer: least of all who would see the signal that ends the
/// run.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where status goes: a line that is rewritten on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(super) struct StatusLine {
    terminal: bool,
    line: Mutex<Line>,
}

/// The terminal's last line.
#[derive(Debug, Default)]
struct Line {
    text: String,
    /// It is on the terminal.
    shown: bool,
    /// The output stands in the middle of a line of its own, such as a prompt: not to be written over.
    taken: bool,
}

impl Line {
    /// What makes room for something else.
    fn clear(&mut self) -> &'static str {
        match mem::take(&mut self.shown) {
            true => CLEAR,
            false => "",
        }
    }

    /// What shows the status, where it may be shown.
    fn show(&mut self) -> String {
        if self.taken || self.text.is_empty() {
            return String::new();
        }
        self.shown = true;
        format!("{CLEAR}{}", self.text)
    }

    /// What shows `text` as a line that stays.
    fn say(&mut self, text: &str) -> String {
        let before = match mem::take(&mut self.taken) {
            true => "\n",
            false => self.clear(),
        };
        format!("{before}gmem: {text}\n{}", self.show())
    }

    /// What has to be printed before the output goes on.
    fn begin(&mut self) -> &'static str {
        self.taken = true;
        self.clear()
    }

    /// What has to be printed after the output has written something, which ends a line or does not.
    fn end(&mut self, whole: bool) -> String {
        self.taken = !whole;
        self.show()
    }
}

const CLEAR: &str = "\r\x1b[2K";

impl StatusLine {
    /// On stderr.
    pub(super) fn on_stderr() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            line: Mutex::default(),
        }
    }

    /// Whether the line is rewritten in place.
    pub(super) fn is_live(&self) -> bool {
        self.terminal
    }

    /// Shows `text`: in place of the last on a terminal, as a line of its own elsewhere.
    pub(super) fn show(&self, text: String) {
        if !self.terminal {
            return print(&format!("gmem: {text}\n"));
        }
        let mut line = self.lock();
        line.text = text;
        print(&line.show());
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, text: &str) {
        self.say_within(text, Some(PATIENCE));
    }

    /// The same, and with no `patience` waits until somebody reads it.
    pub(super) fn say_within(&self, text: &str, patience: Option<Duration>) {
        let text = match self.terminal {
            true => self.lock().say(text),
            false => format!("gmem: {text}\n"),
        };
        stderr::write(&text, patience);
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        let mut line = self.lock();
        line.text.clear();
        print(line.clear());
    }

    /// A writer to `output` that takes the line away before it writes, and puts it back after a whole
    /// line.
    pub(super) fn beside<W: Write>(self: &Arc<Self>, output: W) -> impl Write + use<W> {
        Beside {
            status: Arc::clone(self),
            output,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn print(text: &str) {
    stderr::write(text, Some(PATIENCE));
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
        print(self.status.lock().begin());
        let written = self.output.write(bytes)?;
        let whole = bytes[..written].ends_with(b"\n");
        if whole {
            self.output.flush()?;
        }
        print(&self.status.lock().end(whole));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_stands_below_whole_lines_and_never_on_an_unfinished_one() {
        let mut line = Line {
            text: "half".into(),
            ..Line::default()
        };
        let shown = format!("{CLEAR}half");
        assert_eq!(line.show(), shown);
        assert_eq!(line.begin(), CLEAR);
        assert_eq!(line.end(true), shown, "behind a whole line");
        assert_eq!(line.begin(), CLEAR);
        assert_eq!(line.end(false), "", "behind a prompt");
        assert_eq!(line.begin(), "", "what is typed there stays");
        assert_eq!(line.show(), "");
        assert_eq!(line.end(false), "");
        assert_eq!(line.say("new"), format!("\ngmem: new\n{shown}"));
        assert_eq!(line.say("more"), format!("{CLEAR}gmem: more\n{shown}"));
    }
}
