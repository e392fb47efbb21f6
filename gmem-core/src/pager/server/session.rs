//! One connection: requests in, replies out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pager_wire::body::Features;
use pager_wire::list::{List, Start};
use pager_wire::{Flags, Header, Kind, MAX_DATA, MAX_PAGES, Malformed, PAGE_LEN, Page, Status};
use xxhash_rust::xxh3::xxh3_64;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::super::channel::{Channel, ChannelError, Received};
use super::Server;
use super::client::Client;
use super::pages::Stored;
use super::pool::Place;

mod account;

/// How long a connection may last whose client has not said who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// A connection and what serving it needs.
pub(super) struct Session<'s> {
    server: &'s Server,
    channel: Arc<dyn Channel>,
    client: Option<Arc<Client>>,
    features: u32,
    /// Head and data of the request that is served; then of its reply.
    head: Vec<u8>,
    data: Box<[Aligned]>,
    reply: Vec<u8>,
    places: Vec<Place>,
}

/// A page whose bytes a file can be read into and written from without the kernel's copying them.
#[derive(Clone, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C, align(4096))]
struct Aligned([u8; PAGE_LEN]);

/// Why a connection ends.
enum End {
    Channel,
    /// The client broke the protocol.
    Offence,
    Refused(Status),
    Detached,
}

impl From<ChannelError> for End {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Malformed(_) => Self::Offence,
            _ => Self::Channel,
        }
    }
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> Self {
        Self::Offence
    }
}

impl<'s> Session<'s> {
    pub(super) fn new(server: &'s Server, channel: Arc<dyn Channel>) -> Self {
        Self {
            server,
            channel,
            client: None,
            features: 0,
            head: Vec::new(),
            data: vec![Aligned([0; PAGE_LEN]); MAX_PAGES].into_boxed_slice(),
            reply: Vec::new(),
            places: Vec::with_capacity(pager_wire::MAX_PAGES),
        }
    }

    pub(super) fn run(mut self) {
        let introduced_by = Instant::now() + INTRODUCTION;
        loop {
            let until = self.client.is_none().then_some(introduced_by);
            let received = match self.channel.receive(until, &mut self.head) {
                Ok(Some(received)) => received,
                // There is room for so many strangers: one that says nothing would keep others out.
                Ok(None) if self.client.is_none() => break,
                Ok(None) => continue,
                Err(error) => break self.end(None, error.into()),
            };
            self.server
                .counters
                .requests
                .fetch_add(1, Ordering::Relaxed);
            if let Err(end) = self.serve(&received) {
                break self.end(Some(&received.header), end);
            }
        }
        self.channel.close();
        if let Some(client) = self.client {
            client.disconnected(&self.channel);
        }
    }

    /// Says why, where the client can hear it.
    fn end(&mut self, request: Option<&Header>, end: End) {
        let status = match end {
            End::Channel | End::Detached => return,
            End::Offence => {
                self.server
                    .counters
                    .offences
                    .fetch_add(1, Ordering::Relaxed);
                Status::BadRequest
            }
            End::Refused(status) => status,
        };
        let header = match request {
            Some(request) => request.reply(status),
            None => Header::default().reply(status),
        };
        let _ = self.channel.send(header, &[], &[]);
    }

    fn serve(&mut self, received: &Received) -> Result<(), End> {
        let arrived = Instant::now();
        let header = received.header;
        if header.has(Flags::REPLY | Flags::EVENT) {
            return Err(Malformed::Direction.into());
        }
        if self.client.is_none() {
            return match received.kind {
                Kind::Attach => self.attach(&header),
                _ => Err(End::Refused(Status::Denied)),
            };
        }
        match received.kind {
            Kind::Attach => return Err(Malformed::Direction.into()),
            Kind::Allocate => return self.allocate(&header),
            Kind::Invalidate => return self.invalidate(&header),
            Kind::Statistics => return self.statistics(&header),
            Kind::Detach => return self.detach(&header),
            Kind::Ping => return self.answer(&header, Status::Ok),
            Kind::Pressure | Kind::Drain => return Err(Malformed::Direction.into()),
            Kind::Free | Kind::Read | Kind::Write | Kind::Exchange | Kind::Advise => {}
        }
        let head = std::mem::take(&mut self.head);
        let served = self.serve_list(received.kind, &header, &head, arrived);
        self.head = head;
        served
    }

    fn serve_list(
        &mut self,
        kind: Kind,
        header: &Header,
        head: &[u8],
        arrived: Instant,
    ) -> Result<(), End> {
        let list = List::read(header, head, |start| match kind {
            Kind::Write => start.count.get(),
            Kind::Exchange => start.writes.get(),
            _ => 0,
        })?;
        let writes = match kind {
            Kind::Write => list.pages.len(),
            Kind::Exchange => list.start.writes.get() as usize,
            _ => 0,
        };
        if kind != Kind::Exchange && list.start.writes != 0 {
            return Err(Malformed::Reserved.into());
        }
        let slot = self.slot(header, &list.start)?;
        let (written, read) = list.pages.split_at(writes);
        if writes > 0 {
            let data = &mut self.data.as_mut_bytes()[..writes * PAGE_LEN];
            match (slot, self.channel.memory()) {
                // Copied before it is looked at: the client can change it at any time.
                (Some(at), Some(memory)) => memory.read(at, data),
                _ => self.channel.receive_data(data)?,
            }
        }
        let limit = u128::from(header.deadline_us.get());
        if limit > 0 && arrived.elapsed().as_micros() > limit {
            return self.answer(header, Status::Expired);
        }
        let status = match kind {
            Kind::Write => self.write(written),
            Kind::Free => self.free(list.pages),
            // Nothing here is nearer than anything else.
            Kind::Advise => Status::Ok,
            Kind::Exchange => match self.write(written) {
                Status::Ok => return self.read(header, slot, read),
                refused => refused,
            },
            _ => return self.read(header, slot, read),
        };
        self.answer(header, status)
    }

    /// Where in shared memory the request's data are.
    fn slot(&self, header: &Header, start: &Start) -> Result<Option<usize>, Malformed> {
        if !header.has(Flags::RING) {
            return Ok(None);
        }
        let slot = start.slot.get();
        let at = slot as usize * MAX_DATA;
        match self.channel.memory() {
            Some(memory) if self.features & Features::RING != 0 && at < memory.len() => {
                Ok(Some(at))
            }
            _ => Err(Malformed::Slot(slot)),
        }
    }

    fn client(&self) -> &Arc<Client> {
        self.client.as_ref().expect("attached")
    }

    fn answer(&self, request: &Header, status: Status) -> Result<(), End> {
        if status != Status::Ok {
            self.server.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.channel.send(request.reply(status), &[], &[])?)
    }

    fn write(&mut self, pages: &[Page]) -> Status {
        if self.server.draining.load(Ordering::Relaxed) {
            return Status::Draining;
        }
        let data = &self.data.as_bytes()[..pages.len() * PAGE_LEN];
        if self.features & Features::CHECK != 0 {
            let damaged =
                |(page, bytes): (&Page, &[u8])| xxh3_64(bytes).to_le_bytes() != page.seal[..8];
            if pages.iter().zip(data.chunks_exact(PAGE_LEN)).any(damaged) {
                return Status::Damaged;
            }
        }
        let client = Arc::clone(self.client());
        let mut holds = client.holds();
        if pages
            .iter()
            .any(|page| page.number.get() >= holds.allocated || page.version == 0)
        {
            return Status::Quota;
        }
        let pool = &self.server.pool;
        self.places.clear();
        // Room for what is stored before what it replaces is freed: a failure leaves everything as it was.
        if pool.store(data, &mut self.places).is_err() {
            return Status::NoRoom;
        }
        for (page, place) in pages.iter().zip(self.places.drain(..)) {
            let number = page.number.get();
            let newer = holds
                .pages
                .get(number)
                .is_none_or(|it| it.version <= page.version.get());
            // A retry that arrives late changes nothing.
            let old = match newer {
                true => {
                    let stored = Stored {
                        place,
                        version: page.version.get(),
                        seal: page.seal,
                    };
                    holds.pages.put(number, stored).map(|old| old.place)
                }
                false => Some(place),
            };
            if let Some(old) = old {
                pool.free(old);
            }
        }
        Client::count(&client.written, pages.len());
        Client::count(&self.server.counters.written_pages, pages.len());
        Status::Ok
    }

    fn free(&mut self, pages: &[Page]) -> Status {
        let mut holds = self.client().holds();
        for page in pages {
            let number = page.number.get();
            let older = holds
                .pages
                .get(number)
                .is_some_and(|it| it.version <= page.version.get());
            if older && let Some(stored) = holds.pages.take(number) {
                self.server.pool.free(stored.place);
            }
        }
        Status::Ok
    }

    /// Answers with pages; one that is not there has version 0, and zeros for bytes.
    fn read(&mut self, request: &Header, slot: Option<usize>, pages: &[Page]) -> Result<(), End> {
        let (client, channel) = (Arc::clone(self.client()), Arc::clone(&self.channel));
        let shared = slot.zip(channel.memory());
        let start = Start {
            count: (pages.len() as u32).into(),
            ..Start::new_zeroed()
        };
        self.reply.clear();
        self.reply.extend_from_slice(start.as_bytes());
        self.places.clear();
        {
            let holds = client.holds();
            for page in pages {
                let stored = holds.pages.get(page.number.get());
                let found = match stored {
                    Some(stored) => Page {
                        number: page.number,
                        version: stored.version.into(),
                        seal: stored.seal,
                    },
                    None => Page {
                        number: page.number,
                        ..Page::new_zeroed()
                    },
                };
                self.reply.extend_from_slice(found.as_bytes());
                self.places.extend(stored.map(|stored| stored.place));
            }
            // With its pages held: none of them is overwritten or freed meanwhile.
            let (all, there) = (pages.len(), self.places.len());
            let pool = &self.server.pool;
            let loaded = match shared {
                Some((at, memory)) if there == all => pool.load_shared(&self.places, memory, at),
                _ => pool.load(
                    &self.places,
                    &mut self.data.as_mut_bytes()[..there * PAGE_LEN],
                ),
            };
            if loaded.is_err() {
                drop(holds);
                return self.answer(request, Status::NoRoom);
            }
            if there < all {
                let is_there = |page: &Page| holds.pages.get(page.number.get()).is_some();
                let data = &mut self.data.as_mut_bytes()[..all * PAGE_LEN];
                spread(data, pages.iter().map(is_there), there);
                if let Some((at, memory)) = shared {
                    memory.write(at, data);
                }
            }
        }
        Client::count(&client.read, pages.len());
        Client::count(&self.server.counters.read_pages, pages.len());
        let inline = match shared {
            Some(_) => &[],
            None => &self.data.as_bytes()[..pages.len() * PAGE_LEN],
        };
        Ok(channel.send(request.reply(Status::Ok), &self.reply, inline)?)
    }
}

/// Pages that were loaded to lie together are put where they are listed, with zeros for those that are not there.
fn spread(
    data: &mut [u8],
    present: impl DoubleEndedIterator<Item = bool> + ExactSizeIterator,
    there: usize,
) {
    let mut from = there;
    let all = present.len();
    for (to, present) in (0..all).rev().zip(present.rev()) {
        match present {
            true => {
                from -= 1;
                data.copy_within(from * PAGE_LEN..(from + 1) * PAGE_LEN, to * PAGE_LEN);
            }
            false => data[to * PAGE_LEN..(to + 1) * PAGE_LEN].fill(0),
        }
    }
}
