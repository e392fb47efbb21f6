//! Frames that travel, and pages that are copied into new ones.

use super::{Userfault, Waking, abi};
use crate::memory::pagemap::Pagemap;
use gmem_core::mmu::{Moved, Obstacle};
use gmem_core::page::PAGE_SIZE;

/// How often a move that made no progress, and met no obstacle, is tried again before it counts as busy.
const IDLE_RETRIES: usize = 64;

impl Userfault {
    /// Moves the frames of `[source, source + len)` to `[destination, destination + len)`.
    ///
    /// The destination's pages must be absent and the source's present; what was moved is writable and
    /// *not* write-protected, whatever the source was. Where the range is not moved whole, the answer says
    /// how many pages went and what was found at the page after them; the caller deals with that page and
    /// goes on behind it. A move of a huge page stays whole if both addresses are 2 MiB aligned and the
    /// destination block has no page table (`MADV_DONTNEED` on it drops an empty one).
    pub fn move_pages(
        &self,
        destination: usize,
        source: usize,
        len: usize,
        waking: Waking,
    ) -> Moved {
        let mut done = 0;
        let mut idle = 0;
        let stopped = loop {
            if done == len {
                break None;
            }
            let mut request = abi::Move {
                dst: (destination + done) as u64,
                src: (source + done) as u64,
                len: (len - done) as u64,
                mode: match waking {
                    Waking::Now => 0,
                    Waking::Later => abi::MOVE_DONTWAKE,
                },
                moved: 0,
            };
            let result = self.request(abi::UFFDIO_MOVE, &raw mut request);
            // EAGAIN after progress does not say what the obstacle is: asking again at that page does.
            let progress = usize::try_from(request.moved).unwrap_or(0);
            done += progress;
            let Err(error) = result else {
                done = len;
                continue;
            };
            match error.raw_os_error().unwrap_or(libc::EIO) {
                libc::EAGAIN if progress > 0 => idle = 0,
                libc::EAGAIN if idle < IDLE_RETRIES => {
                    idle += 1;
                    std::thread::yield_now();
                }
                libc::EAGAIN | libc::EBUSY => break Some(Obstacle::Busy),
                found @ (libc::EEXIST | libc::ENOENT) => {
                    match uncounted(destination + done, source + done, len - done) {
                        0 if found == libc::EEXIST => break Some(Obstacle::Present),
                        0 => break Some(Obstacle::Absent),
                        moved => done += moved,
                    }
                }
                other => break Some(Obstacle::Failed(other)),
            }
        };
        Moved {
            pages: done / PAGE_SIZE,
            stopped,
        }
    }

    /// Copies `bytes`, whole pages, into new frames at `destination`, whose pages must be absent; they are writable. Nobody is
    /// woken. Where it stops early, the answer says how many pages were copied and what was found at the next.
    ///
    /// The kernel allocates a frame for each: whoever counts frames counts them first.
    pub fn copy_pages(&self, destination: usize, bytes: &[u8]) -> Moved {
        let (mut done, mut idle) = (0, 0);
        let stopped = loop {
            if done == bytes.len() {
                break None;
            }
            let mut request = abi::Copy {
                dst: (destination + done) as u64,
                src: bytes[done..].as_ptr() as u64,
                len: (bytes.len() - done) as u64,
                mode: abi::COPY_DONTWAKE,
                copied: 0,
            };
            let result = self.request(abi::UFFDIO_COPY, &raw mut request);
            let progress = usize::try_from(request.copied).unwrap_or(0);
            done += progress;
            let Err(error) = result else {
                done = bytes.len();
                continue;
            };
            match error.raw_os_error().unwrap_or(libc::EIO) {
                libc::EAGAIN if progress > 0 => idle = 0,
                libc::EAGAIN if idle < IDLE_RETRIES => {
                    idle += 1;
                    std::thread::yield_now();
                }
                libc::EAGAIN => break Some(Obstacle::Busy),
                libc::EEXIST => break Some(Obstacle::Present),
                other => break Some(Obstacle::Failed(other)),
            }
        };
        Moved {
            pages: done / PAGE_SIZE,
            stopped,
        }
    }
}

/// Bytes from the start of a move on that have been moved although the kernel did not count them.
///
/// Seen with Linux 6.18, where a move of many pages races with faults on its destination: it moves a batch,
/// starts over, finds the batch's first page present at the destination (or absent at the source), and reports
/// just that. Source and destination are the caller's alone, so what is absent here and present there has
/// been moved, and by this move.
fn uncounted(destination: usize, source: usize, len: usize) -> usize {
    let gone = Pagemap::open().and_then(|pagemap| pagemap.gone(source, destination, len));
    // Without a page map the obstacle is what the kernel says it is.
    gone.unwrap_or(0)
}
