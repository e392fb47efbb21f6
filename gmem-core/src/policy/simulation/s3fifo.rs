//! S3-FIFO: three queues, the small one for what may be touched only once.

use super::Replacement;
use super::lists::Lists;

const SMALL: u8 = 0;
const MAIN: u8 = 1;
const GHOST: u8 = 2;

/// S3-FIFO with a tenth for the small queue and as many ghosts as the main one has room for. J. Yang et al., "FIFO
/// queues are all you need for cache eviction", SOSP 2023.
#[derive(Debug)]
pub struct S3Fifo {
    small: usize,
    main: usize,
    lists: Lists,
    /// Touches since it came in, at most 3.
    touches: Vec<u8>,
}

impl S3Fifo {
    /// For pages below `pages`, with room for `capacity` of them (at least 2).
    pub fn new(pages: u32, capacity: usize) -> Self {
        let small = (capacity / 10).max(1);
        Self {
            small,
            main: capacity - small,
            lists: Lists::new(pages, 3),
            touches: vec![0; pages as usize],
        }
    }

    fn evict(&mut self) {
        if self.lists.len(SMALL) < self.small || !self.evict_small() {
            self.evict_main();
        }
    }

    /// Whether a page left; otherwise all of them moved on.
    fn evict_small(&mut self) -> bool {
        while let Some(page) = self.lists.back(SMALL) {
            if self.touches[page as usize] <= 1 {
                self.lists.push_front(GHOST, page);
                if self.lists.len(GHOST) > self.main {
                    self.lists.pop_back(GHOST);
                }
                return true;
            }
            self.touches[page as usize] = 0;
            self.lists.push_front(MAIN, page);
            if self.lists.len(MAIN) > self.main {
                self.evict_main();
                return true;
            }
        }
        false
    }

    fn evict_main(&mut self) {
        while let Some(page) = self.lists.back(MAIN) {
            if self.touches[page as usize] == 0 {
                self.lists.remove(page);
                return;
            }
            self.touches[page as usize] -= 1;
            self.lists.push_front(MAIN, page);
        }
    }
}

impl Replacement for S3Fifo {
    fn touch(&mut self, page: u32) -> bool {
        let place = self.lists.of(page);
        let touches = &mut self.touches[page as usize];
        if matches!(place, Some(SMALL | MAIN)) {
            *touches = (*touches + 1).min(3);
            return true;
        }
        *touches = 0;
        // A ghost is out of its queue before room is made, which may let the oldest ghost go.
        self.lists.remove(page);
        if self.lists.len(SMALL) + self.lists.len(MAIN) == self.small + self.main {
            self.evict();
        }
        let queue = if place == Some(GHOST) { MAIN } else { SMALL };
        self.lists.push_front(queue, page);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    #[test]
    fn two_touches_or_a_return_from_the_ghosts_lead_to_the_main_queue() {
        let mut s3 = S3Fifo::new(9, 3);
        // 1 is touched twice and moves on for 4; so 2 leaves as the first of the small queue, as do 3 and 4.
        assert_eq!(course(&mut s3, &[1, 1, 1, 2, 3, 4, 5, 6, 1]), "mhhmmmmmh");
        // 4 is a ghost: it comes into the main queue, and is there after others have passed.
        assert_eq!(course(&mut s3, &[4, 7, 8, 4, 1]), "mmmhh");
    }
}
