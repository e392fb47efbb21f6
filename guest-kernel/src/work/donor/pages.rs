//! Requests about pages: they are written, read and freed.

use super::serve::{Answer, Server, Trouble};
use super::unit::{Job, Unit};
use crate::accel::calls::Incoming;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use gmem_wire::gmem::Call;
use pager_wire::list::{List, Start};
use pager_wire::zerocopy::{FromZeros, IntoBytes};
use pager_wire::{Header, Kind, MAX_PAGES, Malformed, Page, Status};

impl<U: Unit> Server<'_, U> {
    /// Serves a request that has a list.
    pub(super) fn list(
        &mut self,
        client: usize,
        incoming: &Incoming,
        (kind, header, head): (Kind, &Header, &[u8]),
    ) -> Result<Answer, Trouble> {
        let list = List::read(header, head, |start| match kind {
            Kind::Write => start.count.get(),
            Kind::Exchange => start.writes.get(),
            _ => 0,
        })?;
        let writes = match kind {
            Kind::Write => list.pages.len(),
            Kind::Exchange => list.start.writes.get() as usize,
            _ if list.start.writes != 0 => return Err(Malformed::Reserved.into()),
            _ => 0,
        };
        let (written, others) = list.pages.split_at(writes);
        if writes > 0 {
            self.write(client, written, incoming.at + Call::DATA_AT as u64)?;
        }
        match kind {
            Kind::Read | Kind::Exchange => {
                self.read(client, others, incoming.answer_at + Call::DATA_AT as u64)
            }
            Kind::Free => {
                self.free(client, others)?;
                Ok(Answer::of(Status::Ok))
            }
            // All of it is equally near.
            _ => Ok(Answer::of(Status::Ok)),
        }
    }

    /// Stores pages that lie at `from`. A refusal has changed nothing.
    fn write(&mut self, client: usize, pages: &[Page], from: u64) -> Result<(), Trouble> {
        let allocated = self.clients.at(client).map_or(0, |it| it.allocated);
        if pages
            .iter()
            .any(|page| page.number.get() >= allocated || page.version == 0)
        {
            return Err(Trouble::Refused(Status::Quota));
        }
        let mut taken = [None; MAX_PAGES];
        for (at, (page, taken)) in (from..)
            .step_by(PAGE_SIZE as usize)
            .zip(pages.iter().zip(&mut taken))
        {
            // A retry that arrives late changes nothing.
            if self.is_newer(client, page)
                && let Some(frame) = self.frames.take()
            {
                *taken = Some(frame);
                let to = self.layout.frame(frame);
                let len = PAGE_SIZE;
                self.moves.add(Job::Copy { from: at, to, len })?;
            }
        }
        let moved = self.moves.finish()?;
        let mut stored = 0;
        for (page, taken) in pages.iter().zip(taken) {
            let Some(frame) = taken else { continue };
            let number = page.number.get();
            if !moved || !self.is_newer(client, page) {
                self.frames.give(frame, &mut self.moves)?;
                continue;
            }
            self.frames.label(frame, page);
            let before = self.frames.of(client, number);
            self.frames.put(client, number, Some(frame));
            match before {
                Some(before) => self.frames.give(before, &mut self.moves)?,
                None => stored += 1,
            }
        }
        self.settle()?;
        if !moved {
            return Err(Trouble::Refused(Status::NoRoom));
        }
        self.counts.pages_written += pages.len() as u64;
        if let Some(client) = self.clients.at(client) {
            client.stored += stored;
            client.written += pages.len() as u64;
        }
        Ok(())
    }

    fn is_newer(&self, client: usize, page: &Page) -> bool {
        let frame = self.frames.of(client, page.number.get());
        frame.is_none_or(|frame| self.frames.labelled(frame).0 <= page.version.get())
    }

    /// Answers with pages, whose bytes are put at `to`; one that is not there has version 0, and zeros for bytes.
    fn read(&mut self, client: usize, pages: &[Page], to: u64) -> Result<Answer, Trouble> {
        let start = Start {
            count: (pages.len() as u32).into(),
            ..Start::new_zeroed()
        };
        let mut answer = Answer::with(Status::Ok, start.as_bytes());
        for (to, page) in (to..).step_by(PAGE_SIZE as usize).zip(pages) {
            let number = page.number.get();
            let mut found = Page {
                number: page.number,
                ..Page::new_zeroed()
            };
            let len = PAGE_SIZE;
            match self.frames.of(client, number) {
                Some(frame) => {
                    let (version, seal) = self.frames.labelled(frame);
                    (found.version, found.seal) = (version.into(), seal);
                    let from = self.layout.frame(frame);
                    self.moves.add(Job::Copy { from, to, len })?;
                }
                None => self.moves.add(Job::Zero { at: to, len })?,
            }
            answer.push(found.as_bytes());
        }
        answer.pages = pages.len();
        if !self.moves.finish()? {
            return Err(Trouble::Refused(Status::NoRoom));
        }
        self.counts.pages_read += pages.len() as u64;
        if let Some(client) = self.clients.at(client) {
            client.read += pages.len() as u64;
        }
        Ok(answer)
    }

    fn free(&mut self, client: usize, pages: &[Page]) -> Result<(), Fault> {
        for page in pages {
            let number = page.number.get();
            if self.is_newer(client, page) {
                self.drop_page(client, number)?;
            }
        }
        self.settle()
    }

    /// Drops a page, if it is there.
    pub(super) fn drop_page(&mut self, client: usize, number: u64) -> Result<(), Fault> {
        if let Some(frame) = self.frames.of(client, number) {
            self.frames.put(client, number, None);
            self.frames.give(frame, &mut self.moves)?;
            if let Some(client) = self.clients.at(client) {
                client.stored -= 1;
            }
        }
        Ok(())
    }
}
