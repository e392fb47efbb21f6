//! Where pages are.

use super::Engine;
use crate::page::PageRange;
use crate::table::{Place, State};

impl Engine {
    /// How many pages of `range` node `node` holds, by hnode number: 0 is host RAM, beneath the guest or staged. Pages that
    /// hold nothing are nowhere. Not of one instant while pages move.
    pub fn pages_in(&self, node: u8, range: PageRange) -> u64 {
        let within = |page| match self.table.peek(page).state() {
            State::Mapped => node == Place::RAM,
            State::Held(place) => node == place.hnode,
            _ => false,
        };
        let pages = range.iter().filter(|page| self.is_ram(*page));
        pages.filter(|page| within(*page)).count() as u64
    }
}
