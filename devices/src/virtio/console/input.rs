//! Where input comes from.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// A descriptor that input is read from. Its flags are left alone: a terminal shares them with others.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    /// It can be waited for. A file, or `/dev/null`, cannot, and is always readable.
    waits: bool,
    ended: bool,
}

impl Input {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let event = EpollEvent::new(EventSet::IN, 0);
        let waits = match Epoll::new()?.ctl(ControlOperation::Add, fd.as_raw_fd(), event) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => false,
            Err(error) => return Err(error),
        };
        Ok(Self {
            file: fd.into(),
            waits,
            ended: false,
        })
    }

    /// What to wait for, if it can be waited for.
    pub(super) fn source(&self) -> Option<RawFd> {
        self.waits.then(|| self.file.as_raw_fd())
    }

    /// Whether nothing will ever come any more.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Reads what there is, without waiting; nothing, if there is nothing now.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        while !self.ended && self.readable() {
            match self.file.read(bytes) {
                Ok(0) => self.ended = true,
                Ok(len) => return len,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break,
                    // The other end of a terminal is gone.
                    _ => self.ended = true,
                },
            }
        }
        0
    }

    fn readable(&self) -> bool {
        let mut fd = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, which lives through the call.
        unsafe { libc::poll(&mut fd, 1, 0) == 1 }
    }
}
