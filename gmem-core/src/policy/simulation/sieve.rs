//! SIEVE: first in, first out, with a hand that leaves what was touched where it is.

use super::Replacement;
use super::lists::Lists;

/// SIEVE. Y. Zhang et al., "SIEVE is Simpler than LRU: an Efficient Turn-Key Eviction Algorithm for Web Caches",
/// NSDI 2024.
#[derive(Debug)]
pub struct Sieve {
    capacity: usize,
    lists: Lists,
    touched: Vec<bool>,
    hand: Option<u32>,
}

impl Sieve {
    /// For pages below `pages`, with room for `capacity` of them (at least 1).
    pub fn new(pages: u32, capacity: usize) -> Self {
        Self {
            capacity,
            lists: Lists::new(pages, 1),
            touched: vec![false; pages as usize],
            hand: None,
        }
    }

    fn evict(&mut self) {
        while let Some(page) = self.hand.or_else(|| self.lists.back(0)) {
            self.hand = self.lists.before(page);
            if !std::mem::take(&mut self.touched[page as usize]) {
                self.lists.remove(page);
                return;
            }
        }
    }
}

impl Replacement for Sieve {
    fn touch(&mut self, page: u32) -> bool {
        if self.lists.of(page).is_some() {
            self.touched[page as usize] = true;
            return true;
        }
        if self.lists.len(0) == self.capacity {
            self.evict();
        }
        self.lists.push_front(0, page);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    #[test]
    fn what_was_touched_stays_where_it_is_and_the_hand_goes_on() {
        let mut sieve = Sieve::new(7, 3);
        // 4: the hand passes by 1 and takes 2. 5: it goes on to 3. 6: on to 4, the next one, although 1 is older.
        assert_eq!(
            course(&mut sieve, &[1, 2, 3, 1, 4, 5, 6, 1, 4]),
            "mmmhmmmhm"
        );
    }
}
