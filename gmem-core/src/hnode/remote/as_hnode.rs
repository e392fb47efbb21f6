//! The tier as the engine knows it.

use std::sync::atomic::Ordering;

use pager_wire::{MAX_PAGES, Page};
use zerocopy::FromZeros;

use super::{FREES, Remote, Shared};
use crate::hnode::{
    Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, Peers, StoreError, Usage,
    unit_of,
};
use crate::page::{PAGE_SIZE, Unit};

impl Hnode for Remote {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn kind(&self) -> Kind {
        Kind::Remote
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: true,
            persistent: false,
            latency: LatencyClass::Device,
            owner: Owner::Peer,
        }
    }

    fn usage(&self) -> Usage {
        self.shared.frames.usage()
    }

    fn guaranteed_pages(&self) -> u64 {
        self.shared.frames.total()
    }

    fn free_pages(&self) -> u64 {
        match (0..self.shared.holders.len()).any(|holder| self.shared.takes(holder)) {
            true => self.shared.frames.free_pages(),
            false => 0,
        }
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        let unit = unit_of(bytes.len())?;
        if self.is_going() {
            return Err(StoreError::Full);
        }
        let frame = self.shared.frames.take(unit).ok_or(StoreError::Full)?;
        let all: Vec<Frame> = (0..unit.pages() as u64)
            .map(|at| Frame(frame.0 + at))
            .collect();
        let until = self.shared.patience();
        for (frames, bytes) in all
            .chunks(MAX_PAGES)
            .zip(bytes.chunks(MAX_PAGES * PAGE_SIZE))
        {
            if !self.shared.clear_flight(frames.len(), until) {
                all.iter().for_each(|frame| self.forget(*frame));
                self.shared.frames.give_back(frame, unit);
                return Err(Shared::stalled());
            }
            self.shared.send(frames, bytes);
        }
        Ok(frame)
    }

    fn store_pages(
        &self,
        bytes: &[u8],
        stored: &mut dyn FnMut(usize, Frame),
    ) -> Result<usize, StoreError> {
        if self.is_going() {
            return Ok(0);
        }
        let mut done = 0;
        for bytes in bytes.chunks(MAX_PAGES * PAGE_SIZE) {
            let pages = bytes.len() / PAGE_SIZE;
            if !self.shared.clear_flight(pages, self.shared.patience()) {
                return Err(Shared::stalled());
            }
            let frames: Vec<Frame> = (0..pages)
                .map_while(|_| self.shared.frames.take(Unit::Page))
                .collect();
            if !frames.is_empty() {
                self.shared
                    .send(&frames, &bytes[..frames.len() * PAGE_SIZE]);
            }
            for frame in &frames {
                stored(done, *frame);
                done += 1;
            }
            if frames.len() < pages {
                break;
            }
        }
        Ok(done)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        let frames: Vec<Frame> = (0..(into.len() / PAGE_SIZE) as u64)
            .map(|at| Frame(frame.0 + at))
            .collect();
        self.load_pages(&frames, into)
    }

    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        self.shared.load(frames, into)
    }

    fn announce(&self, frames: &[Frame]) {
        self.shared.announce(frames);
    }

    fn free(&self, frame: Frame, unit: Unit) {
        for at in 0..unit.pages() as u64 {
            self.forget(Frame(frame.0 + at));
        }
        self.shared.frames.give_back(frame, unit);
    }

    fn trouble(&self) -> Option<String> {
        let shared = &self.shared;
        let each = shared.holders.iter().filter_map(|holder| {
            let trouble = holder.trouble()?;
            Some(format!("{}: {}: {trouble}", shared.name, holder.name()))
        });
        let all: Vec<String> = each.collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn hurry(&self) {
        self.shared.ending.store(true, Ordering::Relaxed);
    }

    fn peers(&self) -> Option<Peers> {
        Some(self.shared.peers())
    }

    fn metadata_bytes(&self) -> u64 {
        self.shared.marks.bytes()
    }

    fn is_going(&self) -> bool {
        let holders = &self.shared.holders;
        holders.iter().any(|it| it.health().draining)
            && !holders.iter().any(|it| {
                let health = it.health();
                health.up && !health.draining
            })
    }
}

impl Remote {
    /// Nothing is in a frame any more; its holders are told, some time.
    fn forget(&self, frame: Frame) {
        let version = self.shared.marks.clear(frame.0);
        if version == 0 {
            return;
        }
        let page = Page {
            number: frame.0.into(),
            version: version.into(),
            ..Page::new_zeroed()
        };
        let mut flight = self.shared.flight();
        if flight.free(page) >= FREES {
            let until = self.shared.patience();
            flight.send_frees(&self.shared.holders, &self.shared.marks, until);
        }
    }
}
