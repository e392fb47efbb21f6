//! What a device sees of its driver.

use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::device::Broken;
use super::interrupt::Interrupt;
use super::{DeviceMemory, Incoming};

/// Buffers that the driver has put into a queue, in one request.
pub type Chain<'m> = DescriptorChain<&'m GuestMemoryMmap>;

/// Requests that a device may take in one call. A driver that adds requests as fast as they are served would
/// otherwise keep the device's lock for ever.
const POPS_A_CALL: u32 = 1024;

/// A set of a device's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueSet(u64);

impl QueueSet {
    pub(super) fn contains(self, queue: usize) -> bool {
        self.0 & Self::bit(queue) != 0
    }

    fn insert(&mut self, queue: usize) {
        self.0 |= Self::bit(queue);
    }

    /// Devices with more queues than bits share them: a notification too many does no harm.
    fn bit(queue: usize) -> u64 {
        1 << (queue % 64)
    }
}

/// The driver's side: memory, queues and interrupt, while the device holds its lock.
pub struct Guest<'g> {
    memory: &'g GuestMemoryMmap,
    incoming: &'g Incoming,
    queues: &'g mut [Queue],
    interrupt: &'g Interrupt,
    pops_left: u32,
    cut_short: QueueSet,
}

impl<'g> Guest<'g> {
    pub(super) fn new(
        memory: &'g dyn DeviceMemory,
        queues: &'g mut [Queue],
        interrupt: &'g Interrupt,
    ) -> Self {
        Self {
            memory: memory.view(),
            incoming: memory.incoming(),
            queues,
            interrupt,
            pops_left: POPS_A_CALL,
            cut_short: QueueSet::default(),
        }
    }

    /// Queues whose requests were kept back because the device has taken enough in this call.
    pub(super) fn cut_short(&self) -> QueueSet {
        self.cut_short
    }

    /// The guest's memory.
    pub fn memory(&self) -> &'g GuestMemoryMmap {
        self.memory
    }

    /// See [`DeviceMemory::incoming`].
    pub fn incoming(&self) -> &'g Incoming {
        self.incoming
    }

    /// Whether the driver uses queue `queue`. The others stay empty.
    pub fn uses(&self, queue: usize) -> bool {
        self.queues[queue].ready()
    }

    /// Takes the next request from queue `queue`.
    ///
    /// A device that has taken very many in one call finds no more, and is notified of this queue again after it
    /// has returned: others want its lock too.
    pub fn pop(&mut self, queue: usize) -> Result<Option<Chain<'g>>, Broken> {
        let number = queue;
        let queue = &mut self.queues[number];
        if !queue.ready() {
            return Ok(None);
        }
        // Asked first, because popping hides a ring that makes no sense.
        let waiting = queue
            .avail_idx(self.memory, std::sync::atomic::Ordering::Acquire)?
            .0
            .wrapping_sub(queue.next_avail());
        if waiting > queue.size() {
            return Err(Broken(format!(
                "{waiting} requests in a queue of {}",
                queue.size()
            )));
        }
        if waiting == 0 {
            return Ok(None);
        }
        if self.pops_left == 0 {
            self.cut_short.insert(number);
            return Ok(None);
        }
        match queue.pop_descriptor_chain(self.memory) {
            Some(chain) => {
                self.pops_left -= 1;
                Ok(Some(chain))
            }
            None => Err(Broken("a queue's head is not in its table".into())),
        }
    }

    /// Puts the request that was popped last back, to be popped again.
    pub fn unpop(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        queue.set_next_avail(queue.next_avail().wrapping_sub(1));
    }

    /// Gives the request `head` of queue `queue` back, with `written` bytes written into it. Of a queue that the
    /// driver has stopped, the rings are the driver's again, and nothing is told.
    pub fn give_back(&mut self, queue: usize, head: u16, written: u32) -> Result<(), Broken> {
        if self.uses(queue) {
            self.queues[queue].add_used(self.memory, head, written)?;
        }
        Ok(())
    }

    /// Interrupts the driver if it wants to hear of what was given back to `queue`. Once for a batch.
    pub fn signal(&mut self, queue: usize) -> Result<(), Broken> {
        if self.uses(queue) && self.queues[queue].needs_notification(self.memory)? {
            self.interrupt.used();
        }
        Ok(())
    }

    /// Asks the driver not to notify `queue` while it is worked on.
    pub fn disable_notification(&mut self, queue: usize) -> Result<(), Broken> {
        if self.uses(queue) {
            self.queues[queue].disable_notification(self.memory)?;
        }
        Ok(())
    }

    /// Asks for notifications of `queue` again, without which none may come. True: something came meanwhile, look
    /// again. Of a queue that the driver does not use, none come.
    pub fn enable_notification(&mut self, queue: usize) -> Result<bool, Broken> {
        if !self.uses(queue) {
            return Ok(false);
        }
        let more = self.queues[queue].enable_notification(self.memory)?;
        Ok(more && !self.cut_short.contains(queue))
    }

    /// Tells the driver that the configuration has changed.
    pub fn config_changed(&self) {
        self.interrupt.changed();
    }
}
