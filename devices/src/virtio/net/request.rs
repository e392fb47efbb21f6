//! One packet, out or in.

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::GuestMemoryMmap;

use super::tap::Tap;
use crate::virtio::{Broken, Buffers, Guest, Span};

/// The header before each packet, of which the last two bytes say how many buffers an incoming one takes.
pub(super) const HEADER_SIZE: usize = 12;
const BUFFER_COUNT: std::ops::Range<usize> = 10..HEADER_SIZE;
/// The longest packet with its header: 64 KiB of IP, an Ethernet header, and a VLAN's tag.
pub(super) const MOST_BYTES: usize = HEADER_SIZE + 14 + 4 + (64 << 10);
/// An Ethernet header, at least.
pub(super) const LEAST_BYTES: usize = HEADER_SIZE + 14;

/// What became of an outgoing packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is the kernel's.
    Bytes(usize),
    /// The kernel would not have it, or nobody could: it is lost, as packets may be.
    Dropped,
}

/// Sends the packet in `packet`, header first.
pub(super) fn send(tap: &Tap, packet: &Span, memory: &GuestMemoryMmap) -> Result<Sent, Broken> {
    if !(LEAST_BYTES..=MOST_BYTES).contains(&packet.len()) {
        return Ok(Sent::Dropped);
    }
    let iovecs = packet.iovecs(memory)?;
    if iovecs.len() > libc::UIO_MAXIOV as usize {
        return Ok(Sent::Dropped);
    }
    loop {
        // SAFETY: the vectors are guest memory, which `memory` keeps mapped during the call and which is only read;
        // the guest may change it meanwhile, to its own harm.
        let sent = unsafe {
            libc::writev(
                tap.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
            )
        };
        return match usize::try_from(sent) {
            Ok(bytes) => Ok(Sent::Bytes(bytes)),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => continue,
            // Among them: the interface is down, a header that makes no sense, a queue that is full.
            Err(_) => Ok(Sent::Dropped),
        };
    }
}

/// What became of an incoming packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    /// The driver has it.
    Yes,
    /// The driver has no buffer; it notifies when it has.
    NotYet,
    /// The driver's next buffer is too small, and stays.
    TooLarge,
}

/// Gives the driver `packet`, header first, in the next buffer of `queue`.
pub(super) fn deliver(
    guest: &mut Guest<'_>,
    queue: usize,
    packet: &mut [u8],
) -> Result<Delivered, Broken> {
    if !guest.uses(queue) {
        return Ok(Delivered::NotYet);
    }
    let chain = loop {
        match guest.pop(queue)? {
            Some(chain) => break chain,
            None if guest.enable_notification(queue)? => continue,
            None => return Ok(Delivered::NotYet),
        }
    };
    let buffers = Buffers::of(chain)?;
    if buffers.writable.len() < packet.len() {
        guest.unpop(queue);
        return Ok(Delivered::TooLarge);
    }
    // Always one: the kernel leaves these bytes alone.
    packet[BUFFER_COUNT].copy_from_slice(&1u16.to_le_bytes());
    buffers.writable.write(guest.memory(), packet)?;
    guest.give_back(queue, buffers.head, packet.len() as u32)?;
    Ok(Delivered::Yes)
}
