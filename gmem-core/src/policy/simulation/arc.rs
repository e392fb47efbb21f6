//! ARC: two queues, touched once and touched again, whose sizes follow the hits among their ghosts.

use super::Replacement;
use super::lists::Lists;

const ONCE: u8 = 0;
const AGAIN: u8 = 1;
const ONCE_GHOST: u8 = 2;
const AGAIN_GHOST: u8 = 3;

/// ARC. N. Megiddo, D. S. Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003, figure 4.
#[derive(Debug)]
pub struct Arc {
    capacity: usize,
    /// How many pages touched once should be there.
    target: usize,
    lists: Lists,
}

impl Arc {
    /// For pages below `pages`, with room for `capacity` of them (at least 1).
    pub fn new(pages: u32, capacity: usize) -> Self {
        Self {
            capacity,
            target: 0,
            lists: Lists::new(pages, 4),
        }
    }

    /// REPLACE of the paper.
    fn replace(&mut self, from_again_ghost: bool) {
        let once = self.lists.len(ONCE);
        let (from, to) =
            if once > 0 && (once > self.target || from_again_ghost && once == self.target) {
                (ONCE, ONCE_GHOST)
            } else {
                (AGAIN, AGAIN_GHOST)
            };
        if let Some(page) = self.lists.back(from) {
            self.lists.push_front(to, page);
        }
    }
}

impl Replacement for Arc {
    fn touch(&mut self, page: u32) -> bool {
        let place = self.lists.of(page);
        let len = |queue| self.lists.len(queue);
        let ratio = |over, under| usize::max(1, len(over) / len(under).max(1));
        match place {
            Some(ONCE | AGAIN) => {
                self.lists.push_front(AGAIN, page);
                return true;
            }
            Some(ONCE_GHOST) => {
                self.target = (self.target + ratio(AGAIN_GHOST, ONCE_GHOST)).min(self.capacity);
                self.replace(false);
                self.lists.push_front(AGAIN, page);
            }
            Some(_) => {
                self.target = self.target.saturating_sub(ratio(ONCE_GHOST, AGAIN_GHOST));
                self.replace(true);
                self.lists.push_front(AGAIN, page);
            }
            None => {
                let once = len(ONCE) + len(ONCE_GHOST);
                let all = once + len(AGAIN) + len(AGAIN_GHOST);
                if once == self.capacity {
                    if len(ONCE) < self.capacity {
                        self.lists.pop_back(ONCE_GHOST);
                        self.replace(false);
                    } else {
                        self.lists.pop_back(ONCE);
                    }
                } else if all >= self.capacity {
                    if all == 2 * self.capacity {
                        self.lists.pop_back(AGAIN_GHOST);
                    }
                    self.replace(false);
                }
                self.lists.push_front(ONCE, page);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    #[test]
    fn what_was_touched_again_survives_a_scan() {
        let mut arc = Arc::new(20, 3);
        assert_eq!(
            course(&mut arc, &[1, 1, 2, 2, 3, 4, 5, 6, 7, 1, 2]),
            "mhmhmmmmmhh"
        );
    }

    #[test]
    fn a_hit_among_the_ghosts_of_the_once_touched_makes_room_for_more_of_them() {
        let mut arc = Arc::new(20, 2);
        // 1 is touched again; 2 makes way for 3. As a ghost it raises the target to 1: now 1 makes way.
        assert_eq!(course(&mut arc, &[1, 1, 2, 3, 2, 1]), "mhmmmm");
        assert_eq!(arc.target, 0, "the ghost of 1 lowered it again");
    }
}
