//! One packet: its header, and where its payload is.

use virtio_vsock::packet::{Error, PKT_HEADER_SIZE, VsockPacket};
use vm_memory::GuestMemoryMmap;

use crate::virtio::{Broken, Span};

/// The address of the host.
pub const HOST_CID: u64 = 2;
pub(super) const HEADER_SIZE: usize = PKT_HEADER_SIZE;
/// The longest payload, bytes: Linux sends no longer ones.
pub(super) const MOST_PAYLOAD: usize = 64 << 10;
/// The only type of socket that there is.
pub(super) const STREAM: u16 = 1;

/// Operations.
pub(super) mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown: what its sender will not do any more.
pub(super) mod flag {
    pub const RECEIVE: u32 = 1;
    pub const SEND: u32 = 2;
}

/// A packet's header (virtio 1.2, 5.10.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    pub(super) fn decode(bytes: &[u8; HEADER_SIZE]) -> Result<Self, Error> {
        let mut copy = *bytes;
        // SAFETY: the copy outlives the packet, which alone uses it.
        let mut packet = unsafe { VsockPacket::new(&mut copy, None) }?;
        packet.set_header_from_raw(bytes)?;
        Ok(Self {
            src_cid: packet.src_cid(),
            dst_cid: packet.dst_cid(),
            src_port: packet.src_port(),
            dst_port: packet.dst_port(),
            len: packet.len(),
            kind: packet.type_(),
            op: packet.op(),
            flags: packet.flags(),
            buf_alloc: packet.buf_alloc(),
            fwd_cnt: packet.fwd_cnt(),
        })
    }

    pub(super) fn encode(&self) -> Result<[u8; HEADER_SIZE], Error> {
        let mut bytes = [0; HEADER_SIZE];
        // SAFETY: the bytes outlive the packet, which alone uses them until it is dropped.
        let mut packet = unsafe { VsockPacket::new(&mut bytes, None) }?;
        packet
            .set_src_cid(self.src_cid)
            .set_dst_cid(self.dst_cid)
            .set_src_port(self.src_port)
            .set_dst_port(self.dst_port)
            .set_len(self.len)
            .set_type(self.kind)
            .set_op(self.op)
            .set_flags(self.flags)
            .set_buf_alloc(self.buf_alloc)
            .set_fwd_cnt(self.fwd_cnt);
        Ok(bytes)
    }

    /// The answer to a packet that nobody can make sense of.
    pub(super) fn reset_for(packet: &Self) -> Self {
        Self {
            src_cid: packet.dst_cid,
            dst_cid: packet.src_cid,
            src_port: packet.dst_port,
            dst_port: packet.src_port,
            kind: STREAM,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// What the driver has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing<'b> {
    /// A header, and its payload.
    Packet(Header, &'b [u8]),
    /// A header that promises more payload than there is, or may be.
    Cut(Header),
    /// Not even a header.
    Nothing,
}

/// Reads the packet in `sent`. The payload, in however many buffers, is copied into `scratch`, of
/// [`MOST_PAYLOAD`] bytes: what the guest changes from here on changes nothing.
pub(super) fn read<'b>(
    mut sent: Span,
    memory: &GuestMemoryMmap,
    scratch: &'b mut [u8],
) -> Result<Outgoing<'b>, Broken> {
    let mut bytes = [0; HEADER_SIZE];
    if sent.take_front(HEADER_SIZE).read(memory, &mut bytes)? < HEADER_SIZE {
        return Ok(Outgoing::Nothing);
    }
    let Ok(header) = Header::decode(&bytes) else {
        return Ok(Outgoing::Nothing);
    };
    let len = header.len as usize;
    let Some(payload) = scratch.get_mut(..len) else {
        return Ok(Outgoing::Cut(header));
    };
    match sent.read(memory, payload)? == len {
        true => Ok(Outgoing::Packet(header, payload)),
        false => Ok(Outgoing::Cut(header)),
    }
}

/// Writes a packet into `room`; returns how many bytes that were. There is room for it.
pub(super) fn write(
    mut room: Span,
    memory: &GuestMemoryMmap,
    header: &Header,
    payload: &[u8],
) -> Result<u32, Broken> {
    let bytes = header.encode().map_err(|error| Broken(error.to_string()))?;
    let written = room.take_front(HEADER_SIZE).write(memory, &bytes)?;
    Ok((written + room.write(memory, payload)?) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_laid_out_as_the_specification_says() {
        let header = Header {
            src_cid: 0x0807_0605_0403_0201,
            dst_cid: 0x100f_0e0d_0c0b_0a09,
            src_port: 0x1413_1211,
            dst_port: 0x1817_1615,
            len: 0x1c1b_1a19,
            kind: 0x1e1d,
            op: 0x201f,
            flags: 0x2423_2221,
            buf_alloc: 0x2827_2625,
            fwd_cnt: 0x2c2b_2a29,
        };
        let bytes = header.encode().unwrap();
        let expected: Vec<u8> = (1..=44).collect();
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(Header::decode(&bytes).unwrap(), header);
    }
}
