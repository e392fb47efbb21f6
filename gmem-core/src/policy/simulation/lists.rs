//! Queues of pages, each page in at most one, linked through arrays: all in constant time.

/// Queues numbered from 0.
#[derive(Debug)]
pub(super) struct Lists {
    /// Towards the back and towards the front. A queue's own node comes after those of the pages.
    links: Vec<[u32; 2]>,
    /// Which queue a page is in.
    of: Vec<u8>,
    lengths: Vec<usize>,
    pages: u32,
}

const BACK: usize = 0;
const FRONT: usize = 1;
const NOWHERE: u8 = u8::MAX;

impl Lists {
    /// So many empty queues for pages below `pages`.
    pub(super) fn new(pages: u32, queues: u8) -> Self {
        Self {
            links: (0..pages + u32::from(queues))
                .map(|node| [node; 2])
                .collect(),
            of: vec![NOWHERE; pages as usize],
            lengths: vec![0; queues.into()],
            pages,
        }
    }

    /// The queue that `page` is in.
    pub(super) fn of(&self, page: u32) -> Option<u8> {
        let queue = self.of[page as usize];
        (queue != NOWHERE).then_some(queue)
    }

    pub(super) fn len(&self, queue: u8) -> usize {
        self.lengths[usize::from(queue)]
    }

    /// Puts `page` at the front of a queue, taking it out of the one it is in.
    pub(super) fn push_front(&mut self, queue: u8, page: u32) {
        self.remove(page);
        let head = self.pages + u32::from(queue);
        let first = self.links[head as usize][BACK];
        self.links[page as usize] = [first, head];
        self.links[head as usize][BACK] = page;
        self.links[first as usize][FRONT] = page;
        self.of[page as usize] = queue;
        self.lengths[usize::from(queue)] += 1;
    }

    /// Takes `page` out of whatever queue it is in.
    pub(super) fn remove(&mut self, page: u32) {
        let queue = std::mem::replace(&mut self.of[page as usize], NOWHERE);
        if queue == NOWHERE {
            return;
        }
        let [back, front] = self.links[page as usize];
        self.links[front as usize][BACK] = back;
        self.links[back as usize][FRONT] = front;
        self.lengths[usize::from(queue)] -= 1;
    }

    /// The page at the back of a queue.
    pub(super) fn back(&self, queue: u8) -> Option<u32> {
        self.page(self.links[(self.pages + u32::from(queue)) as usize][FRONT])
    }

    /// Takes the page at the back of a queue out.
    pub(super) fn pop_back(&mut self, queue: u8) -> Option<u32> {
        let page = self.back(queue)?;
        self.remove(page);
        Some(page)
    }

    /// The page before `page`, towards the front of its queue.
    pub(super) fn before(&self, page: u32) -> Option<u32> {
        self.page(self.links[page as usize][FRONT])
    }

    fn page(&self, node: u32) -> Option<u32> {
        (node < self.pages).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_one_queue_and_leaves_in_the_order_of_arrival() {
        let mut lists = Lists::new(8, 2);
        for page in [3, 5, 7] {
            lists.push_front(0, page);
        }
        lists.push_front(1, 5);
        assert_eq!((lists.len(0), lists.len(1), lists.of(5)), (2, 1, Some(1)));
        assert_eq!((lists.before(3), lists.before(7)), (Some(7), None));
        assert_eq!(
            (lists.pop_back(0), lists.pop_back(0), lists.pop_back(0)),
            (Some(3), Some(7), None)
        );
        assert_eq!((lists.of(3), lists.back(1)), (None, Some(5)));
    }
}
