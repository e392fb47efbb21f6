//! CLOCK: pages in a ring; the hand gives those that were touched a second chance.

use super::Replacement;

/// CLOCK, with a page that arrives not yet marked. F. J. Corbató, "A Paging Experiment with the Multics System", 1968.
#[derive(Debug)]
pub struct Clock {
    ring: Vec<u32>,
    capacity: usize,
    hand: usize,
    /// Of a page: absent, there, there and touched.
    state: Vec<u8>,
}

impl Clock {
    /// For pages below `pages`, with room for `capacity` of them (at least 1).
    pub fn new(pages: u32, capacity: usize) -> Self {
        Self {
            ring: Vec::with_capacity(capacity),
            capacity,
            hand: 0,
            state: vec![0; pages as usize],
        }
    }
}

impl Replacement for Clock {
    fn touch(&mut self, page: u32) -> bool {
        if self.state[page as usize] > 0 {
            self.state[page as usize] = 2;
            return true;
        }
        self.state[page as usize] = 1;
        if self.ring.len() < self.capacity {
            self.ring.push(page);
            return false;
        }
        loop {
            let candidate = self.ring[self.hand] as usize;
            self.state[candidate] -= 1;
            if self.state[candidate] == 0 {
                self.ring[self.hand] = page;
            }
            self.hand = (self.hand + 1) % self.capacity;
            if self.state[candidate] == 0 {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::simulation::course;

    #[test]
    fn a_touched_page_has_a_second_chance() {
        let mut clock = Clock::new(6, 3);
        // 4 finds 1 marked and takes the place of 2; 5 that of 3; 2 passes by 1, unmarked now, and takes its place.
        assert_eq!(
            course(&mut clock, &[1, 2, 3, 1, 4, 5, 1, 2, 4]),
            "mmmhmmhmm"
        );
    }
}
