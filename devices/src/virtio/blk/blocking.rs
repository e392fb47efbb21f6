//! Operations by ordinary calls, each over before the next: for hosts without io_uring.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::engine::{Completion, Engine, Slot};
use super::operation::{Kind, Operation};

/// The engine.
#[derive(Debug)]
pub(super) struct Blocking {
    file: Arc<File>,
}

impl Blocking {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file }
    }

    fn range(&self, mode: FallocateMode, operation: &Operation) -> io::Result<u64> {
        let (offset, len) = (operation.offset, operation.len);
        fallocate(&*self.file, mode, true, offset, len)?;
        Ok(0)
    }
}

impl Engine for Blocking {
    fn name(&self) -> &'static str {
        "blocking"
    }

    fn source(&self) -> Option<RawFd> {
        None
    }

    unsafe fn start(&mut self, _: Slot, operation: &Operation) -> Option<io::Result<u64>> {
        let iovecs = operation.iovecs();
        let (fd, count) = (self.file.as_raw_fd(), iovecs.len() as libc::c_int);
        let offset = operation.offset as libc::off_t;
        Some(match operation.kind {
            Kind::Read => {
                // SAFETY: the caller keeps the vector and its memory through the call.
                bytes(unsafe { libc::preadv(fd, iovecs.as_ptr(), count, offset) })
            }
            Kind::Write => {
                let flags = if operation.durable {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                // SAFETY: as above.
                bytes(unsafe { libc::pwritev2(fd, iovecs.as_ptr(), count, offset, flags) })
            }
            Kind::Flush => self.file.sync_data().map(|()| 0),
            Kind::Punch => self.range(FallocateMode::PunchHole, operation),
            Kind::Zero => self.range(FallocateMode::ZeroRange, operation),
        })
    }

    fn submit(&mut self) {}

    fn completed(&mut self) -> Vec<Completion> {
        Vec::new()
    }

    fn wait(&mut self) {}
}

fn bytes(result: isize) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}
