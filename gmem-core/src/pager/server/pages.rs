//! The pages of one client.

use super::pool::Place;

const CHUNK: usize = 256;

/// A page that is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) place: Place,
    pub(super) version: u64,
    pub(super) seal: [u8; 16],
}

type Chunk = Box<[Option<Stored>; CHUNK]>;

/// Pages by their numbers; what is not used takes next to no memory.
#[derive(Default)]
pub(super) struct Pages {
    chunks: Vec<Option<Chunk>>,
    stored: u64,
}

impl Pages {
    /// How many are stored.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    pub(super) fn get(&self, number: u64) -> Option<&Stored> {
        let at = number as usize;
        self.chunks.get(at / CHUNK)?.as_ref()?[at % CHUNK].as_ref()
    }

    /// Puts a page there; returns what was there.
    pub(super) fn put(&mut self, number: u64, page: Stored) -> Option<Stored> {
        let at = number as usize;
        if self.chunks.len() <= at / CHUNK {
            self.chunks.resize_with(at / CHUNK + 1, || None);
        }
        let chunk = self.chunks[at / CHUNK].get_or_insert_with(|| Box::new([None; CHUNK]));
        let before = chunk[at % CHUNK].replace(page);
        self.stored += u64::from(before.is_none());
        before
    }

    /// Takes a page away.
    pub(super) fn take(&mut self, number: u64) -> Option<Stored> {
        let at = number as usize;
        let page = self.chunks.get_mut(at / CHUNK)?.as_mut()?[at % CHUNK].take();
        self.stored -= u64::from(page.is_some());
        page
    }

    /// Takes the pages from `first` to before `end` away.
    pub(super) fn take_range(&mut self, first: u64, end: u64) -> Vec<Stored> {
        let end = end.min((self.chunks.len() * CHUNK) as u64);
        (first..end)
            .filter_map(|number| self.take(number))
            .collect()
    }
}
