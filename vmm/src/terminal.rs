//! The user's terminal, when every key goes to the guest.

use std::io;
use std::mem;
use std::os::fd::RawFd;

/// A terminal that passes keys on as they are typed. Dropping it gives it back as it was.
#[derive(Debug)]
pub struct RawTerminal {
    fd: RawFd,
    before: libc::termios,
}

impl RawTerminal {
    /// Takes `fd`, if it is a terminal on which this process may read: one in the background would be stopped.
    pub fn take(fd: RawFd) -> Option<Self> {
        if !in_foreground(fd) {
            return None;
        }
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut before: libc::termios = unsafe { mem::zeroed() };
        // SAFETY: the structure is writable.
        checked(unsafe { libc::tcgetattr(fd, &mut before) }).ok()?;
        let mut raw = before;
        // No line editing, no echo, no keys for signals and none that stop the output; output stays as it was.
        raw.c_iflag &= !(libc::IXON | libc::IXOFF | libc::ICRNL | libc::INLCR | libc::IGNCR)
            & !(libc::ISTRIP | libc::BRKINT | libc::PARMRK);
        raw.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ECHONL | libc::ISIG | libc::IEXTEN);
        (raw.c_cc[libc::VMIN], raw.c_cc[libc::VTIME]) = (1, 0);
        // SAFETY: the structure came from the kernel.
        checked(unsafe { libc::tcsetattr(fd, libc::TCSANOW, &raw) }).ok()?;
        Some(Self { fd, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // In the background it is somebody else's by now, and setting it would stop this process.
        if in_foreground(self.fd) {
            // SAFETY: the structure came from the kernel. The terminal may be gone, and nobody left to tell.
            unsafe { libc::tcsetattr(self.fd, libc::TCSANOW, &self.before) };
        }
    }
}

/// Whether `fd` is a terminal that is this process's to read.
pub fn in_foreground(fd: RawFd) -> bool {
    // SAFETY: both only ask the kernel; without a terminal the first gives -1.
    unsafe { libc::tcgetpgrp(fd) == libc::getpgrp() }
}

fn checked(rc: libc::c_int) -> io::Result<()> {
    match rc {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
