//! What the user types goes to the guest's console.
//!
//! On a terminal every key goes to the guest, Ctrl-C too: Ctrl-A then x ends the run, Ctrl-A twice types one.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::kvm::run_loop::Shared;
use crate::poll::poll;
use crate::terminal::{RawTerminal, in_foreground};

/// Ctrl-A: the next key is for the monitor.
const PREFIX: u8 = 1;
/// After [`PREFIX`]: end the run.
const QUIT: u8 = b'x';
/// Between attempts to type on a console that takes nothing and does not say when it will.
const BREATH: Duration = Duration::from_millis(20);
/// The same of one that says when it has room, but not in each of its modes.
const LONG_BREATH: Duration = Duration::from_millis(200);
/// How much is read at once: what the console's UART holds.
const PIECE: usize = 64;
/// Keys that wait for the guest, at most; more are lost, as a terminal loses them.
const WAITING: usize = 4096;

/// A thread that passes stdin on. Dropping it ends the thread and gives the terminal back as it was.
pub struct ConsoleInput {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
    terminal: Option<RawTerminal>,
}

impl ConsoleInput {
    /// Starts to pass stdin on to the console of `shared`. `drained` is readable when the guest has read all there was.
    pub fn start(shared: Arc<Shared>, drained: EventFd) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stdin = io::stdin();
        // In the background nothing is read: the kernel would stop the process.
        let readable = !stdin.is_terminal() || in_foreground(stdin.as_raw_fd());
        let mut input = Self {
            stop,
            thread: None,
            terminal: RawTerminal::take(stdin.as_raw_fd()),
        };
        if readable {
            let typist = Typist {
                shared,
                drained,
                stop: input.stop.try_clone()?,
                keys: input.is_raw().then(Keys::default),
                waiting: Vec::new(),
                ended: false,
            };
            let thread = thread::Builder::new().name("console-in".into());
            input.thread = Some(thread.spawn(move || typist.run())?);
        }
        Ok(input)
    }

    /// Whether stdin is a terminal that gives every key to the guest.
    pub fn is_raw(&self) -> bool {
        self.terminal.is_some()
    }
}

impl Drop for ConsoleInput {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// The thread's own.
struct Typist {
    shared: Arc<Shared>,
    drained: EventFd,
    stop: EventFd,
    /// On a terminal.
    keys: Option<Keys>,
    /// Read, and not typed yet.
    waiting: Vec<u8>,
    /// Nothing more is to be read.
    ended: bool,
}

impl Typist {
    /// Until all of stdin is typed, or the monitor ends. Waits for nobody else: the guest may read nothing, and its
    /// output may be stuck, and yet the key that ends the run has to work.
    fn run(mut self) {
        const NONE: i32 = -1;
        loop {
            let again = self.type_waiting();
            if self.ended && self.waiting.is_empty() {
                return;
            }
            let reads = !self.ended && (self.waiting.is_empty() || self.keys.is_some());
            let stdin = io::stdin().as_raw_fd();
            let fds = [
                self.stop.as_raw_fd(),
                if reads { stdin } else { NONE },
                self.drained.as_raw_fd(),
            ];
            match poll(fds, again) {
                Ok([false, readable, drained]) => {
                    if drained {
                        let _ = self.drained.read();
                    }
                    if readable && !self.read(stdin) {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Types what waits, as far as there is room. How long to wait before the rest is tried again.
    fn type_waiting(&mut self) -> Option<Duration> {
        while !self.waiting.is_empty() {
            let (taken, breath) = match self.shared.devices.typist() {
                // One that is full takes nothing.
                Some(mut stream) => (stream.write(&self.waiting).unwrap_or(0), BREATH),
                None => match self.shared.ports.type_in(&self.waiting) {
                    Some(taken) => (taken, LONG_BREATH),
                    None => (0, BREATH),
                },
            };
            if taken == 0 {
                return Some(breath);
            }
            self.waiting.drain(..taken);
        }
        None
    }

    /// Reads what there is; false: the user ends the run.
    fn read(&mut self, stdin: i32) -> bool {
        let mut bytes = [0; PIECE];
        // SAFETY: the buffer is writable and has the length given.
        let read = unsafe { libc::read(stdin, bytes.as_mut_ptr().cast(), PIECE) };
        let Ok(count @ 1..) = usize::try_from(read) else {
            self.ended = true;
            return true;
        };
        let bytes = &bytes[..count];
        let Some(keys) = &mut self.keys else {
            self.waiting.extend(bytes);
            return true;
        };
        let Some(typed) = keys.take(bytes) else {
            // The main thread takes it like any other.
            // SAFETY: sends this process a signal that it waits for.
            unsafe { libc::kill(process::id() as libc::pid_t, libc::SIGINT) };
            return false;
        };
        self.waiting.extend(typed);
        self.waiting.truncate(WAITING);
        true
    }
}

/// Keys that are the monitor's.
#[derive(Debug, Default)]
struct Keys {
    prefixed: bool,
}

impl Keys {
    /// What of `bytes` is for the guest; `None`: end the run.
    fn take(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut rest = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match (self.prefixed, *byte) {
                (false, PREFIX) => self.prefixed = true,
                (true, QUIT) => return None,
                (_, byte) => {
                    self.prefixed = false;
                    rest.push(byte);
                }
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_is_the_monitors_key() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ls\x03\n").unwrap(), b"ls\x03\n");
        assert_eq!(keys.take(b"\x01\x01").unwrap(), b"\x01");
        assert_eq!(keys.take(b"x\x01").unwrap(), b"x");
        assert_eq!(keys.take(b"yx").unwrap(), b"yx", "an unknown one is typed");
        assert_eq!(keys.take(b"a\x01x"), None);
    }
}
