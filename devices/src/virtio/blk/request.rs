//! From a descriptor chain to what is to be done: header, data and status, in whatever pieces they come.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::GuestMemoryMmap;

use super::file::{Disk, SECTOR, SERIAL_LEN};
use super::operation::{Kind, Operation};
use crate::virtio::{Broken, Buffers, Chain, Guest, MAX_BUFFERS, Span};

/// Data buffers in one request, at most.
pub(super) const SEG_MAX: u32 = 254;
/// Bytes in one data buffer, at most.
pub(super) const SIZE_MAX: u32 = 128 << 10;
/// Sectors in one range that is discarded or zeroed, at most: 1 GiB.
pub(super) const RANGE_MAX: u32 = 1 << 21;
/// Bytes of data in one request, at most.
const DATA_MAX: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// How a request ended, as the driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as isize,
    Failed = VIRTIO_BLK_S_IOERR as isize,
    Unsupported = VIRTIO_BLK_S_UNSUPP as isize,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Todo {
    /// Something with the file.
    Start(Operation),
    /// Tell the serial number.
    Serial,
    /// Nothing: the answer is known.
    Answer(Status),
}

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct Request {
    head: u16,
    status: Span,
    /// What the driver wants to read; the operation has its own view of it.
    data: Span,
    /// Success fills `data`.
    fills: bool,
    /// What it is called, and how many bytes it is about.
    pub(super) kind: Option<Kind>,
    pub(super) bytes: u64,
}

impl Request {
    /// The request in `chain`, and what to do about it. Broken: there is no header, or nowhere to put the status.
    pub(super) fn parse(
        chain: Chain<'_>,
        disk: &Disk,
        memory: &GuestMemoryMmap,
    ) -> Result<(Self, Todo), Broken> {
        let Buffers {
            head,
            mut readable,
            mut writable,
        } = Buffers::of(chain)?;
        let Some(data_len) = writable.len().checked_sub(1) else {
            return Err(Broken("a disk request without room for its status".into()));
        };
        let data_in = writable.take_front(data_len);
        let mut header = [0; 16];
        let read = readable
            .take_front(header.len())
            .read(memory, &mut header)?;
        if read < header.len() {
            return Err(Broken(format!(
                "a disk request with a header of {read} bytes"
            )));
        }
        let mut request = Self {
            head,
            status: writable,
            data: data_in,
            fills: false,
            kind: None,
            bytes: 0,
        };
        let sector = u64::from_le_bytes(word(&header, 8));
        let todo = match u32::from_le_bytes(word(&header, 0)) {
            VIRTIO_BLK_T_IN => {
                let data = request.data.clone();
                request.transfer(Kind::Read, disk, sector, &data, memory)?
            }
            VIRTIO_BLK_T_OUT => request.transfer(Kind::Write, disk, sector, &readable, memory)?,
            VIRTIO_BLK_T_FLUSH => request.start(Operation::new(Kind::Flush, 0, 0)),
            VIRTIO_BLK_T_GET_ID if request.data.len() == SERIAL_LEN => {
                request.fills = true;
                Todo::Serial
            }
            VIRTIO_BLK_T_GET_ID => Todo::Answer(Status::Failed),
            VIRTIO_BLK_T_DISCARD if disk.punches => {
                request.clear(false, disk, &readable, memory)?
            }
            VIRTIO_BLK_T_WRITE_ZEROES if disk.punches => {
                request.clear(true, disk, &readable, memory)?
            }
            _ => Todo::Answer(Status::Unsupported),
        };
        Ok((request, todo))
    }

    fn start(&mut self, operation: Operation) -> Todo {
        self.fills = operation.kind == Kind::Read;
        self.kind = Some(operation.kind);
        self.bytes = operation.len;
        Todo::Start(operation)
    }

    /// Reads or writes sectors.
    fn transfer(
        &mut self,
        kind: Kind,
        disk: &Disk,
        sector: u64,
        data: &Span,
        memory: &GuestMemoryMmap,
    ) -> Result<Todo, Broken> {
        let len = data.len() as u64;
        let whole = len > 0 && len.is_multiple_of(SECTOR) && len <= DATA_MAX;
        let allowed = kind == Kind::Read || !disk.read_only;
        if !whole || !allowed || !disk.has(sector, len / SECTOR) {
            return Ok(Todo::Answer(Status::Failed));
        }
        let iovecs = data.iovecs(memory)?;
        if iovecs.len() > MAX_BUFFERS {
            return Ok(Todo::Answer(Status::Failed));
        }
        Ok(self.start(Operation::with_memory(kind, sector * SECTOR, len, iovecs)))
    }

    /// Discards a range or fills it with zeros.
    fn clear(
        &mut self,
        zero: bool,
        disk: &Disk,
        data: &Span,
        memory: &GuestMemoryMmap,
    ) -> Result<Todo, Broken> {
        let mut range = [0; 16];
        // One range in a request, as the configuration says.
        if data.len() != range.len() {
            return Ok(Todo::Answer(Status::Failed));
        }
        data.read(memory, &mut range)?;
        let sector = u64::from_le_bytes(word(&range, 0));
        let count = u32::from_le_bytes(word(&range, 8));
        let flags = u32::from_le_bytes(word(&range, 12));
        let known = if zero {
            VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
        } else {
            0
        };
        if flags & !known != 0 {
            return Ok(Todo::Answer(Status::Unsupported));
        }
        let sectors = u64::from(count);
        if count == 0 || count > RANGE_MAX || !disk.has(sector, sectors) {
            return Ok(Todo::Answer(Status::Failed));
        }
        let kind = if zero && flags == 0 {
            Kind::Zero
        } else {
            Kind::Punch
        };
        Ok(self.start(Operation::new(kind, sector * SECTOR, sectors * SECTOR)))
    }

    /// Writes what the driver wants to know; whether it fits was checked.
    pub(super) fn tell(&self, bytes: &[u8], memory: &GuestMemoryMmap) -> Result<(), Broken> {
        self.data.write(memory, bytes).map(drop)
    }

    /// Gives the request back. What was written counts from its first byte on: all, or, where the data did not
    /// come, none.
    pub(super) fn answer(
        self,
        status: Status,
        queue: usize,
        guest: &mut Guest<'_>,
    ) -> Result<(), Broken> {
        self.status.write(guest.memory(), &[status as u8])?;
        let data = self.data.len() as u32;
        let written = match status {
            Status::Ok if self.fills => data + 1,
            _ if data == 0 => 1,
            _ => 0,
        };
        guest.give_back(queue, self.head, written)
    }
}

impl Disk {
    /// Whether all of `count` sectors from `sector` on are on the disk.
    fn has(&self, sector: u64, count: u64) -> bool {
        let end = sector.checked_add(count);
        end.is_some_and(|end| end <= self.sectors)
    }
}

/// `N` bytes of `bytes` from `at` on, both known to be within.
fn word<const N: usize>(bytes: &[u8; 16], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at..at + N]);
    word
}

const _: () = assert!(SIZE_MAX.is_multiple_of(SECTOR as u32));
