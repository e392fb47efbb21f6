//! LRU: the page that was touched longest ago leaves.

use super::Replacement;
use super::lists::Lists;

/// Least recently used. R. L. Mattson et al., "Evaluation techniques for storage hierarchies", 1970.
#[derive(Debug)]
pub struct Lru {
    capacity: usize,
    lists: Lists,
}

impl Lru {
    /// For pages below `pages`, with room for `capacity` of them (at least 1).
    pub fn new(pages: u32, capacity: usize) -> Self {
        Self {
            capacity,
            lists: Lists::new(pages, 1),
        }
    }
}

impl Replacement for Lru {
    fn touch(&mut self, page: u32) -> bool {
        let hit = self.lists.of(page).is_some();
        if !hit && self.lists.len(0) == self.capacity {
            self.lists.pop_back(0);
        }
        self.lists.push_front(0, page);
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    #[test]
    fn the_least_recently_touched_leaves() {
        let mut lru = Lru::new(5, 3);
        // 1 is touched again, so 2 leaves for 4.
        assert_eq!(course(&mut lru, &[1, 2, 3, 1, 4, 1, 3, 2]), "mmmhmhhm");
    }
}
