//! The thread that serves a device.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::core::{Core, State};

/// Who woke the worker: queues come first, then sources, then the order to stop.
#[derive(Clone, Copy)]
enum Waker {
    Queue(usize),
    Source(usize),
    Stop,
}

/// A worker's life.
#[derive(Default)]
pub(super) enum Life {
    /// No driver was ready so far.
    #[default]
    Unborn,
    Running(Worker),
    /// Stopped for good.
    Over,
}

/// A running worker. Dropping it without [`Worker::stop`] leaves its thread alone.
pub(super) struct Worker {
    thread: JoinHandle<()>,
    stop: EventFd,
}

/// What the worker waits for.
struct Waiting {
    epoll: Epoll,
    wakers: Vec<Waker>,
    sources: Vec<Source>,
}

/// A device's source.
struct Source {
    fd: RawFd,
    /// Its event's data.
    waker: u64,
    waited_for: bool,
}

impl Waiting {
    fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            wakers: Vec::new(),
            sources: Vec::new(),
        })
    }

    fn add(&mut self, fd: RawFd, waker: Waker) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, self.wakers.len() as u64);
        self.wakers.push(waker);
        self.epoll.ctl(ControlOperation::Add, fd, event)
    }

    /// Adds a source, to be waited for when the device wants it. Fails if it cannot be waited for.
    fn add_source(&mut self, fd: RawFd) -> io::Result<()> {
        self.sources.push(Source {
            fd,
            waker: self.wakers.len() as u64,
            waited_for: true,
        });
        self.add(fd, Waker::Source(self.sources.len() - 1))
    }

    /// Waits for those sources that the device wants.
    fn choose_sources(&mut self, state: &State) {
        let live = state.live();
        for (number, source) in self.sources.iter_mut().enumerate() {
            let wanted = live && state.device.wants(number);
            if wanted == source.waited_for {
                continue;
            }
            let event = EpollEvent::new(EventSet::IN, source.waker);
            // Taken out rather than masked: the end of a pipe would be reported all the same.
            let operation = match wanted {
                true => ControlOperation::Add,
                false => ControlOperation::Delete,
            };
            if self.epoll.ctl(operation, source.fd, event).is_ok() {
                source.waited_for = wanted;
            }
        }
    }
}

impl Worker {
    /// Starts the thread, named as the device.
    pub(super) fn start(
        core: &Arc<Core>,
        notifiers: &Arc<[EventFd]>,
        sources: &[RawFd],
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let mut waiting = Waiting::new()?;
        for (queue, notifier) in notifiers.iter().enumerate() {
            waiting.add(notifier.as_raw_fd(), Waker::Queue(queue))?;
        }
        for fd in sources {
            waiting.add_source(*fd)?;
        }
        let ours = stop.try_clone()?;
        waiting.add(ours.as_raw_fd(), Waker::Stop)?;
        let (core, notifiers) = (Arc::clone(core), Arc::clone(notifiers));
        let thread = thread::Builder::new()
            .name(core.name.clone())
            .spawn(move || {
                let _stop = ours;
                serve(&core, &notifiers, waiting);
            })?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread; false if it is still busy after `limit`, for example with an output that nobody reads.
    pub(super) fn stop(self, limit: Duration) -> bool {
        let _ = self.stop.write(1);
        let deadline = Instant::now() + limit;
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_micros(200));
        }
        // A panic has been printed.
        let _ = self.thread.join();
        true
    }
}

fn serve(core: &Core, notifiers: &[EventFd], mut waiting: Waiting) {
    let mut events = vec![EpollEvent::default(); waiting.wakers.len()];
    loop {
        let count = match waiting.epoll.wait(-1, &mut events) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Nothing of what is waited for can be closed while this runs.
            Err(_) => return,
        };
        for event in &events[..count] {
            let Some(&waker) = waiting.wakers.get(event.data() as usize) else {
                continue;
            };
            match waker {
                Waker::Stop => return,
                Waker::Queue(queue) => drop(notifiers[queue].read()),
                Waker::Source(_) => {}
            }
            let mut state = core.lock_last();
            let more = core.serve(&mut state, |device, guest| match waker {
                Waker::Queue(queue) => device.notified(queue, guest),
                Waker::Source(source) => device.ready(source, guest),
                Waker::Stop => Ok(()),
            });
            waiting.choose_sources(&state);
            drop(state);
            for (queue, notifier) in notifiers.iter().enumerate() {
                if more.contains(queue) {
                    let _ = notifier.write(1);
                }
            }
        }
    }
}
