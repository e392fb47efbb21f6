//! Operations through io_uring: the device goes on while the kernel works.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::blocking::Blocking;
use super::engine::{Completion, Engine, Slot};
use super::operation::{Kind, Operation};

/// How often a kernel that is out of something is asked again, a millisecond apart.
const PATIENCE: u32 = 200;

/// The engine.
pub(super) struct Uring {
    ring: IoUring,
    file: Arc<File>,
    /// Signalled by the kernel when something completes.
    done: EventFd,
    /// Handed to the kernel and not over.
    in_kernel: usize,
    /// Put into the ring and not handed to the kernel, oldest first.
    queued: VecDeque<Slot>,
    /// Takes over if the kernel takes nothing more.
    instead: Option<Blocking>,
    /// What the kernel did not take.
    refused: Vec<Slot>,
}

impl Uring {
    /// An engine with room for `depth` operations at a time.
    pub(super) fn new(file: Arc<File>, depth: u16) -> io::Result<Self> {
        let ring = IoUring::new(depth.into())?;
        let done = EventFd::new(EFD_NONBLOCK)?;
        ring.submitter().register_eventfd(done.as_raw_fd())?;
        Ok(Self {
            ring,
            file,
            done,
            in_kernel: 0,
            queued: VecDeque::new(),
            instead: None,
            refused: Vec::new(),
        })
    }

    fn entry(&self, operation: &Operation) -> squeue::Entry {
        let fd = Fd(self.file.as_raw_fd());
        let iovecs = operation.iovecs();
        let (first, count) = (iovecs.as_ptr(), iovecs.len() as u32);
        let (offset, len) = (operation.offset, operation.len);
        let range = |mode| {
            opcode::Fallocate::new(fd, len)
                .offset(offset)
                .mode(mode | libc::FALLOC_FL_KEEP_SIZE)
                .build()
        };
        match operation.kind {
            Kind::Read => opcode::Readv::new(fd, first, count).offset(offset).build(),
            Kind::Write => opcode::Writev::new(fd, first, count)
                .offset(offset)
                .rw_flags(if operation.durable {
                    libc::RWF_DSYNC
                } else {
                    0
                })
                .build(),
            Kind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Kind::Punch => range(libc::FALLOC_FL_PUNCH_HOLE),
            Kind::Zero => range(libc::FALLOC_FL_ZERO_RANGE),
        }
    }

    /// The kernel takes nothing more: what it has comes to its end, the rest goes another way.
    fn give_up(&mut self) {
        self.refused.extend(self.queued.drain(..));
        self.instead = Some(Blocking::new(Arc::clone(&self.file)));
        // So that somebody asks for what is over.
        let _ = self.done.write(1);
    }
}

impl Engine for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn source(&self) -> Option<RawFd> {
        Some(self.done.as_raw_fd())
    }

    unsafe fn start(&mut self, slot: Slot, operation: &Operation) -> Option<io::Result<u64>> {
        let entry = self.entry(operation).user_data(slot.into());
        if self.ring.submission().is_full() {
            self.submit();
        }
        if let Some(instead) = &mut self.instead {
            // SAFETY: as for this call.
            return unsafe { instead.start(slot, operation) };
        }
        // SAFETY: the caller keeps what the entry points to until the operation is over.
        match unsafe { self.ring.submission().push(&entry) } {
            Ok(()) => {
                self.queued.push_back(slot);
                None
            }
            // Never: there was room.
            Err(_) => Some(Err(io::ErrorKind::OutOfMemory.into())),
        }
    }

    fn submit(&mut self) {
        let mut patience = PATIENCE;
        while !self.queued.is_empty() {
            match self.ring.submit() {
                Ok(taken) if taken > 0 => {
                    let taken = taken.min(self.queued.len());
                    self.queued.drain(..taken);
                    self.in_kernel += taken;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if !matches!(
                        error.raw_os_error(),
                        Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
                    ) =>
                {
                    return self.give_up();
                }
                _ => thread::sleep(Duration::from_millis(1)),
            }
            patience -= 1;
            if patience == 0 {
                return self.give_up();
            }
        }
    }

    fn completed(&mut self) -> Vec<Completion> {
        // Before looking: what completes from here on signals again.
        let _ = self.done.read();
        let mut all: Vec<Completion> = (self.ring.completion())
            .map(|entry| {
                let result = match u64::try_from(entry.result()) {
                    Ok(done) => Ok(done),
                    Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
                };
                (entry.user_data() as Slot, result)
            })
            .collect();
        self.in_kernel -= all.len().min(self.in_kernel);
        let again = || Err(io::Error::from_raw_os_error(libc::EAGAIN));
        all.extend(self.refused.drain(..).map(|slot| (slot, again())));
        all
    }

    fn wait(&mut self) {
        self.submit();
        while self.in_kernel > 0 && self.refused.is_empty() && self.ring.completion().is_empty() {
            let mut fd = libc::pollfd {
                fd: self.done.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // Looks again every second, should a signal be lost with a thread that has ended.
            // SAFETY: one valid pollfd, which lives through the call.
            unsafe { libc::poll(&mut fd, 1, 1000) };
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::tempfile::TempFile;

    use super::*;

    #[test]
    fn what_the_kernel_does_not_take_is_done_another_way() {
        let file = TempFile::new().unwrap().into_file();
        let mut engine = Uring::new(Arc::new(file), 8).unwrap();
        let flush = Operation::new(Kind::Flush, 0, 0);
        // SAFETY: a flush points to no memory.
        assert!(unsafe { engine.start(3, &flush) }.is_none());
        engine.give_up();
        engine.wait();
        let over = engine.completed();
        assert_eq!((over.len(), over[0].0), (1, 3));
        let again = over[0].1.as_ref().unwrap_err().raw_os_error();
        assert_eq!(again, Some(libc::EAGAIN));
        // SAFETY: as above.
        assert!(matches!(unsafe { engine.start(3, &flush) }, Some(Ok(0))));
        engine.submit();
        engine.wait();
        assert!(engine.completed().is_empty(), "nothing is done twice");
    }
}
