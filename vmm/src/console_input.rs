//! What the user types goes to the guest's console.
//!
//! On a terminal every key goes to the guest, Ctrl-C too: Ctrl-A then x ends the run, Ctrl-A twice types one.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::terminal::Terminal;

use crate::kvm::run_loop::Shared;
use crate::poll::poll;

/// Ctrl-A: the next key is for the monitor.
const PREFIX: u8 = 1;
/// After [`PREFIX`]: end the run.
const QUIT: u8 = b'x';
/// Between attempts to write to a virtio console that is full.
const BREATH: Duration = Duration::from_millis(20);
/// How much is read at once: what the console's UART holds.
const PIECE: usize = 64;

/// A thread that passes stdin on. Dropping it ends the thread and gives the terminal back as it was.
pub struct ConsoleInput {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
    raw: bool,
}

impl ConsoleInput {
    /// Starts to pass stdin on to the console of `shared`. `drained` is readable when the guest has read all there was.
    pub fn start(shared: Arc<Shared>, drained: EventFd) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stdin = io::stdin();
        // SAFETY: both only ask the kernel; without a terminal the first gives -1.
        let foreground = unsafe { libc::tcgetpgrp(stdin.as_raw_fd()) == libc::getpgrp() };
        // In the background nothing is read: the kernel would stop the process.
        let readable = foreground || !stdin.is_terminal();
        let raw = foreground && stdin.lock().set_raw_mode().is_ok();
        let mut input = Self {
            stop,
            thread: None,
            raw,
        };
        if readable {
            let stop = input.stop.try_clone()?;
            let typist = Typist {
                shared,
                drained,
                stop,
                keys: raw.then(Keys::default),
            };
            let thread = thread::Builder::new().name("console-in".into());
            input.thread = Some(thread.spawn(move || typist.run())?);
        }
        Ok(input)
    }

    /// Whether stdin is a terminal that gives every key to the guest.
    pub fn is_raw(&self) -> bool {
        self.raw
    }
}

impl Drop for ConsoleInput {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
        if self.raw {
            // The terminal may be gone.
            let _ = io::stdin().lock().set_canon_mode();
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
}

impl Typist {
    /// Until stdin ends, or the monitor does.
    fn run(mut self) {
        let stdin = io::stdin().as_raw_fd();
        let mut bytes = [0; PIECE];
        while self.wait_for(stdin) {
            // SAFETY: the buffer is writable and has the length given.
            let read = unsafe { libc::read(stdin, bytes.as_mut_ptr().cast(), PIECE) };
            let Ok(count @ 1..) = usize::try_from(read) else {
                return;
            };
            let mut typed = bytes[..count].to_vec();
            if let Some(keys) = &mut self.keys {
                match keys.take(&bytes[..count]) {
                    Some(rest) => typed = rest,
                    None => {
                        // The main thread takes it like any other.
                        // SAFETY: sends this process a signal that it waits for.
                        unsafe { libc::kill(process::id() as libc::pid_t, libc::SIGINT) };
                        return;
                    }
                }
            }
            if !self.type_in(&typed) {
                return;
            }
        }
    }

    /// Types all of `bytes`, as fast as the guest reads; false if the monitor ends before.
    fn type_in(&self, mut bytes: &[u8]) -> bool {
        loop {
            let virtio = self.shared.devices.typist();
            let taken = match virtio {
                // One that is full takes nothing.
                Some(mut stream) => stream.write(bytes).unwrap_or(0),
                None => self.shared.ports.type_in(bytes),
            };
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return true;
            }
            let room = match virtio {
                Some(_) => !matches!(
                    poll([self.stop.as_raw_fd(); 2], Some(BREATH)),
                    Ok([true, _])
                ),
                None => self.wait_for(self.drained.as_raw_fd()),
            };
            if !room {
                return false;
            }
            let _ = self.drained.read();
        }
    }

    /// Waits until `fd` is readable; false if the monitor ends before.
    fn wait_for(&self, fd: RawFd) -> bool {
        let stop = self.stop.as_raw_fd();
        matches!(poll([fd, stop], None), Ok([_, false]))
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
