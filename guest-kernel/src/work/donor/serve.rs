//! Requests, served one after the other.

use super::clients::{Clients, same};
use super::frames::Frames;
use super::layout::Layout;
use super::unit::{Moves, Unit};
use super::{CREDITS, Lending};
use crate::accel::calls::Incoming;
use crate::extent::Extent;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use gmem_wire::gmem::{Call, call};
use pager_wire::body::{self, Amount, Attach, Attached, Range, Statistics};
use pager_wire::list::Start;
use pager_wire::zerocopy::{FromBytes, IntoBytes};
use pager_wire::{
    Flags, HEADER_LEN, Header, Kind, MAX_HEAD, MAX_PAGES, Malformed, Page, Status, VERSION,
};

/// Head of an answer with a list, at most.
const ANSWER: usize = size_of::<Start>() + MAX_PAGES * size_of::<Page>();

/// The side that lends.
pub(super) struct Server<'a, U> {
    pub(super) ram: Extent<'a>,
    pub(super) layout: Layout,
    pub(super) moves: Moves<U>,
    pub(super) frames: Frames<'a>,
    pub(super) clients: Clients,
    /// Which run of the donor this is.
    pub(super) incarnation: [u8; 16],
    /// For how long a client is kept that has gone: seconds, and cycles.
    pub(super) keep: (u32, u64),
    pub(super) counts: Lending,
}

/// An answer, but for its data, which are there already.
pub(super) struct Answer {
    status: Status,
    head: [u8; ANSWER],
    len: usize,
    pub(super) pages: usize,
}

impl Answer {
    pub(super) fn of(status: Status) -> Self {
        Self::with(status, &[])
    }

    pub(super) fn with(status: Status, head: &[u8]) -> Self {
        let mut answer = Self {
            status,
            head: [0; ANSWER],
            len: 0,
            pages: 0,
        };
        answer.push(head);
        answer
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.head[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// Why a request is not served.
pub(super) enum Trouble {
    /// It is answered so.
    Refused(Status),
    /// The accelerator failed.
    Fault(Fault),
}

impl From<Malformed> for Trouble {
    fn from(_: Malformed) -> Self {
        Self::Refused(Status::BadRequest)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<U: Unit> Server<'_, U> {
    /// Serves a call that has come in; how many bytes its answer has.
    pub(super) fn serve(&mut self, incoming: &Incoming, now: u64) -> Result<u32, Fault> {
        let connection = incoming.call.connection;
        match incoming.call.kind {
            call::MESSAGE => {}
            _ => {
                self.clients.left(connection, now);
                return Ok(0);
            }
        }
        let mut bytes = [0; HEADER_LEN + MAX_HEAD];
        let len = (incoming.call.len as usize).min(bytes.len());
        let words = len.next_multiple_of(8);
        let from = incoming.at + Call::SIZE as u64;
        self.ram.get_words(from, &mut bytes[..words]);
        let (header, head) = Header::read_from_prefix(&bytes[..len])
            .map_err(|_| "a message that is shorter than its header")?;
        self.counts.requests += 1;
        let answer = match self.answer(incoming, &header, head, now) {
            Ok(answer) => answer,
            Err(Trouble::Refused(status)) => Answer::of(status),
            Err(Trouble::Fault(fault)) => return Err(fault),
        };
        self.counts.refused += u64::from(answer.status != Status::Ok);
        Ok(self.put(incoming, &header, &answer))
    }

    /// Writes an answer before its data.
    fn put(&self, incoming: &Incoming, request: &Header, answer: &Answer) -> u32 {
        let data = answer.pages * PAGE_SIZE as usize;
        let header = Header {
            head_len: (answer.len as u32).into(),
            data_len: (data as u32).into(),
            ..request.reply(answer.status)
        };
        let call = Call {
            kind: call::MESSAGE,
            connection: incoming.call.connection,
            len: (HEADER_LEN + answer.len) as u32,
        };
        let mut at = incoming.answer_at;
        // All of them are whole words.
        for part in [
            &call.to_bytes()[..],
            header.as_bytes(),
            &answer.head[..answer.len],
        ] {
            self.ram.put_words(at, part);
            at += part.len() as u64;
        }
        match data {
            0 => (at - incoming.answer_at) as u32,
            _ => (Call::DATA_AT + data) as u32,
        }
    }

    fn answer(
        &mut self,
        incoming: &Incoming,
        header: &Header,
        head: &[u8],
        now: u64,
    ) -> Result<Answer, Trouble> {
        let (kind, _) = header.check()?;
        let head = head
            .get(..header.head_len.get() as usize)
            .ok_or(Malformed::HeadLength(header.head_len.get()))?;
        if header.has(Flags::REPLY | Flags::EVENT | Flags::RING) {
            return Err(Malformed::Direction.into());
        }
        let connection = incoming.call.connection;
        let client = match (self.clients.by_connection(connection), kind) {
            (None, Kind::Attach) => return self.attach(connection, head, now),
            (None, _) => return Err(Trouble::Refused(Status::Denied)),
            (Some(client), _) => client,
        };
        match kind {
            Kind::Allocate => {
                let wanted = body::read::<Amount>(head)?.pages.get();
                let pages = self.allocate(client, wanted)?;
                let amount = Amount {
                    pages: pages.into(),
                };
                let status = room(pages == wanted);
                Ok(Answer::with(status, amount.as_bytes()))
            }
            Kind::Invalidate => {
                let range: Range = body::read(head)?;
                let (first, count) = (range.first.get(), range.count.get());
                self.drop_range(client, first, first.saturating_add(count))?;
                Ok(Answer::of(Status::Ok))
            }
            Kind::Statistics => Ok(self.statistics(client)),
            Kind::Detach => {
                self.remove(client)?;
                Ok(Answer::of(Status::Ok))
            }
            Kind::Ping => Ok(Answer::of(Status::Ok)),
            Kind::Attach | Kind::Pressure | Kind::Drain => Err(Malformed::Direction.into()),
            Kind::Free | Kind::Read | Kind::Write | Kind::Exchange | Kind::Advise => {
                self.list(client, incoming, (kind, header, head))
            }
        }
    }

    /// Drops the pages from `first` to before `end`.
    fn drop_range(&mut self, client: usize, first: u64, end: u64) -> Result<(), Fault> {
        let allocated = self.clients.at(client).map_or(0, |it| it.allocated);
        for number in first..end.min(allocated) {
            self.drop_page(client, number)?;
        }
        self.settle()
    }

    /// What was given back is zero.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        match self.moves.finish()? {
            true => Ok(()),
            false => Err("a frame that was given back could not be zeroed"),
        }
    }

    /// Gives a client room for another number of pages, if there is any; for how many it has room now.
    fn allocate(&mut self, client: usize, wanted: u64) -> Result<u64, Fault> {
        let before = self.clients.at(client).map_or(0, |it| it.allocated);
        if wanted < before {
            self.drop_range(client, wanted, before)?;
        }
        let others = self.clients.promised() - before;
        let fits = wanted <= self.layout.pages - others;
        match self.clients.at(client).filter(|_| fits) {
            Some(client) => {
                client.allocated = wanted;
                Ok(wanted)
            }
            None => Ok(before),
        }
    }

    fn statistics(&mut self, client: usize) -> Answer {
        let (capacity, promised) = (self.layout.pages, self.clients.promised());
        let client = self.clients.at(client).copied().unwrap_or_default();
        let statistics = Statistics {
            allocated: client.allocated.into(),
            stored: client.stored.into(),
            capacity: capacity.into(),
            promised: promised.into(),
            read: client.read.into(),
            written: client.written.into(),
        };
        Answer::with(Status::Ok, statistics.as_bytes())
    }

    fn attach(&mut self, connection: u64, head: &[u8], now: u64) -> Result<Answer, Trouble> {
        let attach: Attach = body::read(head)?;
        if attach.oldest.get() > VERSION || attach.newest.get() < VERSION {
            return Err(Trouble::Refused(Status::Version));
        }
        // There is no token: the socket is its owner's.
        if !same(&attach.token, &[0; 32]) {
            return Err(Trouble::Refused(Status::Denied));
        }
        if attach.origin == self.incarnation {
            return Err(Trouble::Refused(Status::Cycle));
        }
        self.forget_lost(now)?;
        let number = self
            .clients
            .admit(&attach, connection, now)
            .map_err(Trouble::Refused)?;
        let (before, ticket) = match self.clients.at(number) {
            Some(client) => (client.allocated, client.ticket),
            None => return Err(Trouble::Refused(Status::Busy)),
        };
        let wanted = attach.pages.get();
        let pages = match wanted > before {
            true => self.allocate(number, wanted)?,
            false => before,
        };
        let attached = Attached {
            version: VERSION.into(),
            credits: CREDITS.into(),
            features: 0.into(),
            ticket,
            incarnation: self.incarnation,
            origin: self.incarnation,
            pages: pages.into(),
            slots: 0.into(),
            keep_s: self.keep.0.into(),
        };
        Ok(Answer::with(room(pages >= wanted), attached.as_bytes()))
    }

    /// Drops what clients had that have been away for long.
    pub(super) fn forget_lost(&mut self, now: u64) -> Result<(), Fault> {
        while let Some(number) = self.clients.lost(self.keep.1, now) {
            self.remove(number)?;
        }
        Ok(())
    }

    fn remove(&mut self, client: usize) -> Result<(), Fault> {
        self.drop_range(client, 0, u64::MAX)?;
        self.clients.remove(client);
        Ok(())
    }
}

fn room(enough: bool) -> Status {
    match enough {
        true => Status::Ok,
        false => Status::Quota,
    }
}
