//! Who a client is, and how much it may have.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pager_wire::body::{self, Amount, Attach, Attached, Features, Range, Statistics};
use pager_wire::{Header, MAX_DATA, Status, VERSION};
use zerocopy::IntoBytes;

use super::super::client::Client;
use super::super::random;
use super::{End, Session};

impl Session<'_> {
    pub(super) fn attach(&mut self, header: &Header) -> Result<(), End> {
        let attach: Attach = body::read(&self.head)?;
        let server = self.server;
        let config = &server.config;
        if attach.oldest.get() > VERSION || attach.newest.get() < VERSION {
            return Err(End::Refused(Status::Version));
        }
        if !same(&config.token, &attach.token) {
            return Err(End::Refused(Status::Denied));
        }
        let origin = config.origin.unwrap_or(server.incarnation);
        if attach.origin == origin && attach.origin != [0; 16] {
            return Err(End::Refused(Status::Cycle));
        }
        if server.draining.load(Ordering::Relaxed) {
            return Err(End::Refused(Status::Draining));
        }
        let client = self.admit(&attach)?;
        client.connect(&self.channel);
        self.client = Some(Arc::clone(&client));
        let ring = self.channel.memory().map_or(0, |_| Features::RING);
        self.features = attach.features.get() & (Features::CHECK | ring);
        let wanted = attach.pages.get();
        let before = client.holds().allocated;
        let pages = match wanted <= config.quota_pages && wanted > before {
            true => client.allocate(&server.pool, wanted),
            false => before,
        };
        let status = if pages >= wanted {
            Status::Ok
        } else {
            Status::Quota
        };
        let attached = Attached {
            version: VERSION.into(),
            credits: config.credits.into(),
            features: self.features.into(),
            ticket: client.ticket,
            incarnation: server.incarnation,
            origin,
            pages: pages.into(),
            slots: self
                .channel
                .memory()
                .map_or(0, |it| (it.len() / MAX_DATA) as u32)
                .into(),
            keep_s: (config.keep.as_secs() as u32).into(),
        };
        Ok(self
            .channel
            .send(header.reply(status), attached.as_bytes(), &[])?)
    }

    /// The client that attaches: a known one, if it can prove it, or a new one, if there is room.
    fn admit(&self, attach: &Attach) -> Result<Arc<Client>, End> {
        let mut clients = self.server.clients();
        if let Some(known) = clients.get(&attach.client) {
            return match same(&known.ticket, &attach.ticket) {
                true => Ok(Arc::clone(known)),
                false => Err(End::Refused(Status::Denied)),
            };
        }
        if clients.len() >= self.server.config.clients {
            return Err(End::Refused(Status::Busy));
        }
        let ticket = random().map_err(|_| End::Refused(Status::Busy))?;
        let client = Arc::new(Client::new(ticket));
        clients.insert(attach.client, Arc::clone(&client));
        Ok(client)
    }

    pub(super) fn allocate(&mut self, header: &Header) -> Result<(), End> {
        let wanted = body::read::<Amount>(&self.head)?.pages.get();
        let client = self.client();
        let pages = match wanted <= self.server.config.quota_pages {
            true => client.allocate(&self.server.pool, wanted),
            false => client.holds().allocated,
        };
        let status = if pages == wanted {
            Status::Ok
        } else {
            Status::Quota
        };
        let amount = Amount {
            pages: pages.into(),
        };
        Ok(self
            .channel
            .send(header.reply(status), amount.as_bytes(), &[])?)
    }

    pub(super) fn invalidate(&mut self, header: &Header) -> Result<(), End> {
        let range: Range = body::read(&self.head)?;
        let (first, count) = (range.first.get(), range.count.get());
        let dropped = self
            .client()
            .holds()
            .pages
            .take_range(first, first.saturating_add(count));
        dropped
            .into_iter()
            .for_each(|page| self.server.pool.free(page.place));
        self.answer(header, Status::Ok)
    }

    pub(super) fn statistics(&mut self, header: &Header) -> Result<(), End> {
        let (client, pool) = (self.client(), &self.server.pool);
        let (allocated, stored) = {
            let holds = client.holds();
            (holds.allocated, holds.pages.stored())
        };
        let statistics = Statistics {
            allocated: allocated.into(),
            stored: stored.into(),
            capacity: pool.capacity().into(),
            promised: pool.promised().into(),
            read: client.read.load(Ordering::Relaxed).into(),
            written: client.written.load(Ordering::Relaxed).into(),
        };
        Ok(self
            .channel
            .send(header.reply(Status::Ok), statistics.as_bytes(), &[])?)
    }

    /// An orderly end: its pages are dropped.
    pub(super) fn detach(&mut self, header: &Header) -> Result<(), End> {
        if let Some(client) = self.client.take() {
            let mut clients = self.server.clients();
            clients.retain(|_, it| !Arc::ptr_eq(it, &client));
            drop(clients);
            client.drop_all(&self.server.pool);
        }
        self.answer(header, Status::Ok)?;
        Err(End::Detached)
    }
}

/// Whether secrets are the same, in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0 && one.len() == other.len()
}
