//! One thing that an engine does to the file, in several goes if the host does it by halves.

use std::io;

/// How often the host may ask to try again, for one operation.
const RETRIES: u8 = 8;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// File to guest memory.
    Read,
    /// Guest memory to file.
    Write,
    /// Everything that has completed becomes stable.
    Flush,
    /// The range reads as zeros and takes no space.
    Punch,
    /// The range reads as zeros and keeps its space, if the host knows how.
    Zero,
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    /// Where in the file, bytes.
    pub(super) offset: u64,
    /// How much is left, bytes.
    pub(super) len: u64,
    /// Stable when it completes, without a flush.
    pub(super) durable: bool,
    iovecs: Vec<libc::iovec>,
    /// The first of them that is not done.
    first: usize,
    retries: u8,
}

// SAFETY: the pointers are to guest memory, which any thread may use; nobody takes them for references.
unsafe impl Send for Operation {}

/// How an operation goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start it again: there is more to do.
    Again,
    /// It is done.
    Done,
    /// It failed.
    Failed,
    /// The file's host cannot do this.
    Unsupported,
}

impl Operation {
    pub(super) fn new(kind: Kind, offset: u64, len: u64) -> Self {
        Self::with_memory(kind, offset, len, Vec::new())
    }

    /// An operation between the file and `iovecs`, which are `len` bytes.
    pub(super) fn with_memory(kind: Kind, offset: u64, len: u64, iovecs: Vec<libc::iovec>) -> Self {
        Self {
            kind,
            offset,
            len,
            durable: false,
            iovecs,
            first: 0,
            retries: RETRIES,
        }
    }

    /// What is left of the memory.
    pub(super) fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs[self.first..]
    }

    /// The host has done `result` bytes, or failed.
    pub(super) fn next(&mut self, result: io::Result<u64>) -> Next {
        match (self.kind, result) {
            (Kind::Read | Kind::Write, Ok(done)) => self.advance(done),
            (Kind::Punch | Kind::Zero, Ok(_)) if self.durable => {
                self.kind = Kind::Flush;
                Next::Again
            }
            (_, Ok(_)) => Next::Done,
            (kind, Err(error)) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN) if self.retries > 0 => {
                    self.retries -= 1;
                    Next::Again
                }
                // A hole reads as zeros too.
                Some(libc::EOPNOTSUPP) if kind == Kind::Zero => {
                    self.kind = Kind::Punch;
                    Next::Again
                }
                Some(libc::EOPNOTSUPP) if kind == Kind::Punch => Next::Unsupported,
                _ => Next::Failed,
            },
        }
    }

    fn advance(&mut self, done: u64) -> Next {
        if done >= self.len {
            return Next::Done;
        }
        if done == 0 {
            // The file has become shorter, or the device is full.
            return Next::Failed;
        }
        self.offset += done;
        self.len -= done;
        let mut done = done as usize;
        for iovec in &mut self.iovecs[self.first..] {
            if done < iovec.iov_len {
                iovec.iov_base = iovec.iov_base.wrapping_byte_add(done);
                iovec.iov_len -= done;
                break;
            }
            done -= iovec.iov_len;
            self.first += 1;
        }
        Next::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(operation: &Operation) -> Vec<(usize, usize)> {
        let iovecs = operation.iovecs().iter();
        iovecs.map(|v| (v.iov_base as usize, v.iov_len)).collect()
    }

    fn write(lens: &[usize]) -> Operation {
        let iovecs = lens.iter().scan(0x1000, |base, len| {
            let iovec = libc::iovec {
                iov_base: *base as *mut _,
                iov_len: *len,
            };
            *base += 0x1000;
            Some(iovec)
        });
        let len = lens.iter().sum::<usize>() as u64;
        Operation::with_memory(Kind::Write, 4096, len, iovecs.collect())
    }

    #[test]
    fn what_the_host_did_by_halves_goes_on_where_it_stopped() {
        let mut operation = write(&[512, 512, 1024]);
        assert_eq!(operation.next(Ok(700)), Next::Again);
        assert_eq!((operation.offset, operation.len), (4796, 1348));
        assert_eq!(left(&operation), [(0x20bc, 324), (0x3000, 1024)]);
        assert_eq!(operation.next(Ok(324)), Next::Again);
        assert_eq!(left(&operation), [(0x3000, 1024)]);
        assert_eq!(operation.next(Ok(1024)), Next::Done);
    }

    #[test]
    fn no_progress_is_a_failure_and_interruptions_are_not_for_ever() {
        assert_eq!(write(&[512]).next(Ok(0)), Next::Failed);
        let mut operation = write(&[512]);
        let interrupted = || Err(io::Error::from_raw_os_error(libc::EINTR));
        for _ in 0..RETRIES {
            assert_eq!(operation.next(interrupted()), Next::Again);
        }
        assert_eq!(operation.next(interrupted()), Next::Failed);
    }

    #[test]
    fn a_host_without_zero_ranges_punches_and_one_without_holes_says_so() {
        let unsupported = || Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        let mut operation = Operation::new(Kind::Zero, 0, 512);
        assert_eq!(operation.next(unsupported()), Next::Again);
        assert_eq!(operation.kind, Kind::Punch);
        assert_eq!(operation.next(unsupported()), Next::Unsupported);
    }

    #[test]
    fn a_durable_range_is_flushed_before_it_is_done() {
        let mut operation = Operation::new(Kind::Punch, 0, 512);
        operation.durable = true;
        assert_eq!(operation.next(Ok(0)), Next::Again);
        assert_eq!(operation.kind, Kind::Flush);
        assert_eq!(operation.next(Ok(0)), Next::Done);
    }
}
