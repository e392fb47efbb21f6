//! The optimum: the page that is touched again last leaves.

use std::collections::BinaryHeap;

/// How many touches of `trace` miss at the least, with room for `capacity` pages. Takes O(log n) a touch. L. A. Belady,
/// "A study of replacement algorithms for a virtual-storage computer", 1966.
pub fn belady(trace: &[u32], pages: u32, capacity: usize) -> u64 {
    let never = u32::MAX;
    let mut next_of_page = vec![never; pages as usize];
    let mut next = vec![never; trace.len()];
    for (at, page) in trace.iter().enumerate().rev() {
        next[at] = std::mem::replace(&mut next_of_page[*page as usize], at as u32);
    }
    // When each resident page is touched next; entries of the heap that say otherwise are stale.
    let mut expected = vec![None; pages as usize];
    let mut heap = BinaryHeap::new();
    let (mut resident, mut misses) = (0, 0);
    for (page, next) in trace.iter().zip(next) {
        if expected[*page as usize].is_none() {
            misses += 1;
            resident += 1;
        }
        while resident > capacity {
            let Some((when, victim)) = heap.pop() else {
                break;
            };
            if expected[victim as usize] == Some(when) {
                expected[victim as usize] = None;
                resident -= 1;
            }
        }
        expected[*page as usize] = Some(next);
        heap.push((next, *page));
    }
    misses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_that_is_needed_last_leaves() {
        // Belady's own example of three frames: 9 faults of first in, first out; 7 at best.
        assert_eq!(belady(&[1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5], 6, 3), 7);
        assert_eq!(belady(&[0, 1, 2, 0, 1, 2, 0, 1, 2], 3, 2), 6);
    }
}
