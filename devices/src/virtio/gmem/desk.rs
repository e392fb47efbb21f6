//! The queue through which the guest lends memory: the device's side of it.

use std::collections::VecDeque;
use std::sync::Arc;

use gmem_core::pager::wire::zerocopy::{FromBytes, IntoBytes};
use gmem_core::pager::wire::{HEADER_LEN, Header, MAX_DATA, MAX_HEAD};
use gmem_wire::gmem::{Call, call, queue};
use vm_memory::GuestMemoryMmap;

use super::calls::{AskError, Calls, Message, Next};
use crate::virtio::{Broken, Buffers, Guest, Span};

const _: () = assert!(Call::ROOM == Call::DATA_AT + MAX_DATA);
const _: () = assert!(Call::SIZE + HEADER_LEN + MAX_HEAD <= Call::DATA_AT);

/// Calls, and the driver's room for them.
pub(super) struct Desk {
    calls: Arc<Calls>,
    /// Chains in which the driver waits for calls.
    posted: VecDeque<Posted>,
}

struct Posted {
    head: u16,
    room: Span,
}

impl Desk {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        Self {
            calls,
            posted: VecDeque::new(),
        }
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Takes what the driver has put into the queue, and gives it what there is to be told. How many messages that were.
    pub(super) fn serve(&mut self, guest: &mut Guest<'_>) -> Result<u64, Broken> {
        loop {
            let Some(chain) = guest.pop(queue::PAGER)? else {
                match guest.enable_notification(queue::PAGER)? {
                    true => continue,
                    false => break,
                }
            };
            let Buffers {
                head,
                readable,
                writable,
            } = Buffers::of(chain)?;
            if writable.len() < Call::ROOM || readable.len() > Call::ROOM {
                return Err(Broken(format!(
                    "room for {} bytes of a call and {} bytes of an answer, instead of at least and at most {}",
                    writable.len(),
                    readable.len(),
                    Call::ROOM
                )));
            }
            if !readable.is_empty() {
                self.take_answer(readable, guest.memory())?;
            }
            self.posted.push_back(Posted {
                head,
                room: writable,
            });
        }
        self.tell(guest)
    }

    /// Gives the driver what there is to be told, as far as it has room.
    pub(super) fn tell(&mut self, guest: &mut Guest<'_>) -> Result<u64, Broken> {
        let mut told = 0;
        while let Some(Posted { head, room }) = self.posted.front()
            && let Some(next) = self.calls.take()
        {
            let written = write(&next, room.clone(), guest.memory())?;
            guest.give_back(queue::PAGER, *head, written)?;
            self.posted.pop_front();
            told += 1;
        }
        if told > 0 {
            guest.signal(queue::PAGER)?;
        }
        Ok(told)
    }

    /// Gives all chains back, with nothing in them.
    pub(super) fn settle(&mut self, guest: &mut Guest<'_>) -> Result<(), Broken> {
        if self.posted.is_empty() {
            return Ok(());
        }
        for posted in self.posted.drain(..) {
            guest.give_back(queue::PAGER, posted.head, 0)?;
        }
        guest.signal(queue::PAGER)
    }

    pub(super) fn reset(&mut self) {
        self.posted.clear();
        self.calls.reset();
    }

    fn take_answer(&self, mut bytes: Span, memory: &GuestMemoryMmap) -> Result<(), Broken> {
        let mut begin = [0; Call::SIZE];
        let found = bytes.len();
        if bytes.take_front(Call::SIZE).read(memory, &mut begin)? < Call::SIZE {
            return Err(Broken(format!(
                "an answer of {found} bytes, of which the first {} say whose it is",
                Call::SIZE
            )));
        }
        let call = Call::from_bytes(&begin);
        let message = match call.kind {
            call::MESSAGE => read(call, bytes, memory)?,
            _ => Err(AskError::Nonsense("it is no message")),
        };
        self.calls.answer(call.connection, message);
        Ok(())
    }
}

/// The message that follows a call's beginning.
fn read(
    call: Call,
    mut bytes: Span,
    memory: &GuestMemoryMmap,
) -> Result<Result<Message, AskError>, Broken> {
    let nonsense = |what| Ok(Err(AskError::Nonsense(what)));
    let (len, all) = (call.len as usize, bytes.len());
    if !(HEADER_LEN..=HEADER_LEN + MAX_HEAD).contains(&len) {
        return nonsense("its length is none");
    }
    let mut begin = vec![0; len];
    if bytes.take_front(len).read(memory, &mut begin)? < len {
        return nonsense("it is shorter than it says");
    }
    let Ok((header, head)) = Header::read_from_prefix(&begin) else {
        return nonsense("it has no header");
    };
    let data_len = header.data_len.get() as usize;
    if header.head_len.get() as usize != head.len() || data_len > MAX_DATA {
        return nonsense("its lengths do not fit");
    }
    let mut data = vec![0; data_len];
    if data_len > 0 {
        let before = Call::DATA_AT - Call::SIZE;
        if all < before + data_len {
            return nonsense("its data are shorter than it says");
        }
        bytes.take_front(before - len);
        bytes.read(memory, &mut data)?;
    }
    Ok(Ok(Message {
        header,
        head: head.to_vec(),
        data,
    }))
}

/// Writes a call into the driver's room; how many bytes that were.
fn write(next: &Next, mut room: Span, memory: &GuestMemoryMmap) -> Result<u32, Broken> {
    let len = next
        .message
        .as_ref()
        .map_or(0, |it| HEADER_LEN + it.head.len());
    let call = Call {
        connection: next.connection,
        kind: next.kind,
        len: len as u32,
    };
    let mut begin = call.to_bytes().to_vec();
    let mut written = Call::SIZE + len;
    if let Some(message) = &next.message {
        begin.extend_from_slice(message.header.as_bytes());
        begin.extend_from_slice(&message.head);
    }
    let front = room.take_front(Call::DATA_AT);
    front.write(memory, &begin)?;
    if let Some(message) = &next.message
        && !message.data.is_empty()
    {
        written = Call::DATA_AT + room.write(memory, &message.data)?;
    }
    Ok(written as u32)
}
