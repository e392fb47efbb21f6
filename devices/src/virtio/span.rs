//! A request's buffers: bytes of guest memory, in pieces.

use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

use super::device::Broken;
use super::guest::Chain;

/// Buffers in one request, at most: what Linux takes in one vector (UIO_MAXIOV). No driver of ours comes near.
pub const MAX_BUFFERS: usize = 1024;

/// Bytes of guest memory, in pieces. All of them are RAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    gpa: GuestAddress,
    len: usize,
}

/// A request: what the device reads, and what it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// What names the request when it is given back.
    pub head: u16,
    /// What the device reads.
    pub readable: Span,
    /// What the device writes.
    pub writable: Span,
}

impl Buffers {
    /// The buffers of `chain`, after checking that it is one: whole, not endless, in RAM, readable ones first.
    pub fn of(chain: Chain<'_>) -> Result<Self, Broken> {
        let head = chain.head_index();
        let memory: &GuestMemoryMmap = chain.memory();
        let (mut readable, mut writable) = (Span::default(), Span::default());
        let (mut count, mut goes_on) = (0, true);
        for descriptor in chain.clone() {
            let (gpa, len) = (descriptor.addr(), descriptor.len() as usize);
            goes_on = descriptor.has_next();
            count += 1;
            if count > MAX_BUFFERS {
                return Err(Broken(format!(
                    "a request of more than {MAX_BUFFERS} buffers"
                )));
            }
            let side = match descriptor.is_write_only() {
                true => Permissions::Write,
                false => Permissions::Read,
            };
            if len > 0 && !memory.check_range(gpa, len, side) {
                return Err(Broken(format!(
                    "a buffer of {len} bytes at {:#x}, which is not RAM",
                    gpa.0
                )));
            }
            match side {
                Permissions::Write => writable.push(gpa, len),
                _ if writable.0.is_empty() => readable.push(gpa, len),
                _ => return Err(Broken("a buffer to read after one to write".into())),
            }
        }
        if goes_on {
            return Err(Broken("a request without end".into()));
        }
        Ok(Self {
            head,
            readable,
            writable,
        })
    }
}

impl Span {
    fn push(&mut self, gpa: GuestAddress, len: usize) {
        if len > 0 {
            self.0.push(Piece { gpa, len });
        }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.0.iter().map(|piece| piece.len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the first `len` bytes off; all, if there are fewer.
    pub fn take_front(&mut self, mut len: usize) -> Span {
        let mut front = Span::default();
        let mut rest = Span::default();
        for piece in &self.0 {
            let ours = piece.len.min(len);
            front.push(piece.gpa, ours);
            // Within a buffer that was checked: no overflow.
            rest.push(GuestAddress(piece.gpa.0 + ours as u64), piece.len - ours);
            len -= ours;
        }
        *self = rest;
        front
    }

    /// Copies as much as there is on both sides into `bytes`; returns how much.
    pub fn read(&self, memory: &GuestMemoryMmap, bytes: &mut [u8]) -> Result<usize, Broken> {
        let mut done = 0;
        for piece in &self.0 {
            let len = piece.len.min(bytes.len() - done);
            memory
                .read_slice(&mut bytes[done..done + len], piece.gpa)
                .map_err(unreachable_memory)?;
            done += len;
        }
        Ok(done)
    }

    /// Copies as much of `bytes` as there is room for; returns how much.
    pub fn write(&self, memory: &GuestMemoryMmap, bytes: &[u8]) -> Result<usize, Broken> {
        let mut done = 0;
        for piece in &self.0 {
            let len = piece.len.min(bytes.len() - done);
            memory
                .write_slice(&bytes[done..done + len], piece.gpa)
                .map_err(unreachable_memory)?;
            done += len;
        }
        Ok(done)
    }

    /// Where the bytes are in this process, for the kernel: a piece may need several, one for each region of the
    /// guest's memory. Whoever uses them keeps the guest's memory mapped.
    pub fn iovecs(&self, memory: &GuestMemoryMmap) -> Result<Vec<libc::iovec>, Broken> {
        let mut iovecs = Vec::with_capacity(self.0.len());
        for piece in &self.0 {
            // What the pages are used for was checked; the mapping is the same.
            let slices = memory
                .get_slices(piece.gpa, piece.len, Permissions::ReadWrite)
                .map_err(unreachable_memory)?;
            for slice in slices {
                let slice = slice.map_err(unreachable_memory)?;
                iovecs.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
        }
        Ok(iovecs)
    }
}

fn unreachable_memory(error: impl std::fmt::Display) -> Broken {
    Broken(format!("a buffer is out of reach: {error}"))
}
