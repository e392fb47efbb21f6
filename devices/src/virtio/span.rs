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

impl Buffers {
    /// A request of exactly `N` bytes, and room for an answer of at least `answer`.
    pub fn exchange<const N: usize>(
        chain: Chain<'_>,
        memory: &GuestMemoryMmap,
        answer: usize,
    ) -> Result<([u8; N], Self), Broken> {
        let buffers = Self::of(chain)?;
        let (found, room) = (buffers.readable.len(), buffers.writable.len());
        if found != N {
            return Err(Broken(format!("a request of {found} bytes instead of {N}")));
        }
        if room < answer {
            return Err(Broken(format!(
                "room for {room} bytes, where an answer has {answer}"
            )));
        }
        let mut bytes = [0; N];
        buffers.readable.read(memory, &mut bytes)?;
        Ok((bytes, buffers))
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

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
    use virtio_queue::desc::split::Descriptor;

    use super::*;
    use crate::virtio::rng::Rng;
    use crate::virtio::testing::{BUFFERS, Bench};

    const NEXT: u16 = VRING_DESC_F_NEXT as u16;
    const WRITE: u16 = VRING_DESC_F_WRITE as u16;

    /// The buffers of a chain of these descriptors: address, length, flags, next.
    fn buffers(descriptors: &[(u64, u32, u16, u16)]) -> Result<Buffers, Broken> {
        // Any device: only its queue is used.
        let mut bench = Bench::started(Rng::new());
        for (index, (gpa, len, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = Descriptor::new(*gpa, *len, *flags, *next);
            bench.rings[0].describe(&bench.memory, index as u16, descriptor);
        }
        bench.rings[0].offer(&bench.memory, 0);
        bench.with(|_, guest| Buffers::of(guest.pop(0)?.unwrap()))
    }

    fn refusal(descriptors: &[(u64, u32, u16, u16)]) -> String {
        buffers(descriptors).unwrap_err().to_string()
    }

    #[test]
    fn a_request_is_what_it_reads_and_what_it_writes() {
        let at = BUFFERS;
        let chain = [
            (at, 10, NEXT, 1),
            (at + 16, 0, NEXT, 2),
            (at + 32, 5, NEXT | WRITE, 3),
            (at + 64, 7, WRITE, 0),
        ];
        let buffers = buffers(&chain).unwrap();
        assert_eq!(buffers.head, 0);
        assert_eq!((buffers.readable.len(), buffers.writable.len()), (10, 12));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (at, end) = (BUFFERS, 2 << 20);
        for (chain, cause) in [
            (vec![(at, 8, NEXT, 0)], "without end"),
            (vec![(at, 8, NEXT, 64)], "without end"),
            (vec![(at, 8, NEXT, 1), (at, 8, NEXT, 0)], "without end"),
            (
                vec![(at, 8, NEXT | WRITE, 1), (at, 8, 0, 0)],
                "to read after one to write",
            ),
            (vec![(end - 8, 9, 0, 0)], "not RAM"),
            (vec![(u64::MAX - 3, 8, WRITE, 0)], "not RAM"),
            (vec![(u64::MAX, u32::MAX, WRITE, 0)], "not RAM"),
        ] {
            let found = refusal(&chain);
            assert!(found.contains(cause), "{found}");
        }
    }

    #[test]
    fn an_indirect_table_is_bounded_too() {
        const INDIRECT: u16 = virtio_bindings::virtio_ring::VRING_DESC_F_INDIRECT as u16;
        let mut bench = Bench::started(Rng::new());
        let table = BUFFERS;
        let count = MAX_BUFFERS as u16 + 1;
        for index in 0..count {
            let descriptor = Descriptor::new(BUFFERS, 1, NEXT, index + 1);
            let at = GuestAddress(table + 16 * u64::from(index));
            bench.with(|_, guest| guest.memory().write_obj(descriptor, at).unwrap());
        }
        let indirect = Descriptor::new(table, 16 * u32::from(count), INDIRECT, 0);
        bench.rings[0].describe(&bench.memory, 0, indirect);
        bench.rings[0].offer(&bench.memory, 0);
        let refused = bench.with(|_, guest| Buffers::of(guest.pop(0)?.unwrap()));
        assert!(refused.unwrap_err().to_string().contains("more than 1024"));
    }

    #[test]
    fn a_span_is_cut_and_copied_across_its_pieces() {
        let at = BUFFERS;
        let chain = [(at, 10, NEXT | WRITE, 1), (at + 100, 10, WRITE, 0)];
        let mut span = buffers(&chain).unwrap().writable;
        let front = span.take_front(13);
        assert_eq!((front.len(), span.len()), (13, 7));
        let bench = Bench::started(Rng::new());
        bench.memory.put(at, &[1; 200]);
        let view = crate::virtio::DeviceMemory::view(&*bench.memory);
        assert_eq!(front.write(view, &[7; 50]).unwrap(), 13);
        assert_eq!(
            bench.memory.bytes(at, 11),
            [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1]
        );
        assert_eq!(bench.memory.bytes(at + 99, 6), [1, 7, 7, 7, 1, 1]);
        let mut bytes = [0; 50];
        assert_eq!(span.read(view, &mut bytes[..3]).unwrap(), 3);
        assert_eq!(span.take_front(100).len(), 7);
        assert!(span.is_empty());
        let lens = front.iovecs(view).unwrap();
        assert_eq!(
            lens.iter().map(|iovec| iovec.iov_len).collect::<Vec<_>>(),
            [10, 3]
        );
    }
}
