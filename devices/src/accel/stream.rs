//! A stream: commands that an execution unit carries out in their order, on a thread of its own.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::command::{Command, CommandError};
use super::mmu::Format;
use super::processor::Processor;

/// What is called when a command is done, on the stream's thread. It must not wait for the stream.
type Done = Box<dyn FnOnce(Result<u64, CommandError>) + Send>;

/// A stream's queue has no room. The command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} commands wait already; come back when one is done")]
pub struct StreamFull(pub usize);

/// A stream. Dropped, it ends what is under way at the next page, and what waits; all are told.
pub struct Stream {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    /// Whether the unit faults.
    faults: Arc<AtomicBool>,
    depth: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Command, Done)>,
    /// One is under way.
    busy: bool,
    /// No more will come.
    over: bool,
}

impl Stream {
    /// A stream that `processor` carries out, in whose queue at most `depth` commands wait.
    pub fn new<F: Format>(mut processor: Processor<F>, depth: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            stop: processor.stop_flag(),
            faults: Arc::clone(&processor.faults),
            depth,
        });
        let of_worker = Arc::clone(&shared);
        let worker = thread::Builder::new()
            .name(F::NAME.into())
            .spawn(move || of_worker.work(&mut processor))?;
        Ok(Self {
            shared,
            worker: Some(worker),
        })
    }

    /// Puts a command behind those that wait. `done` is called once, with its answer or why there is none.
    pub fn submit(
        &self,
        command: Command,
        done: impl FnOnce(Result<u64, CommandError>) + Send + 'static,
    ) -> Result<(), StreamFull> {
        let mut queue = self.shared.lock();
        if queue.waiting.len() >= self.shared.depth {
            return Err(StreamFull(self.shared.depth));
        }
        queue.waiting.push_back((command, Box::new(done)));
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until everything that was submitted is done.
    pub fn synchronize(&self) {
        let mut queue = self.shared.lock();
        while queue.busy || !queue.waiting.is_empty() {
            queue = self.shared.wait(queue);
        }
    }

    /// Whether operands come as they are touched, from the next command on: see [`Processor::set_faults`].
    pub fn set_faults(&self, faults: bool) {
        self.shared.faults.store(faults, Ordering::Relaxed);
    }

    /// Ends what is under way at the next page, and what waits; all are told before this returns, and nothing of them
    /// touches memory any more. What is submitted later is carried out.
    pub fn abort(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.synchronize();
        self.shared.stop.store(false, Ordering::SeqCst);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        if let Some(worker) = self.worker.take() {
            // A panic has been reported.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work<F: Format>(&self, processor: &mut Processor<F>) {
        while let Some((command, done)) = self.next() {
            // Stopped, it says so at its first page, or before.
            done(match self.stop.load(Ordering::SeqCst) {
                true => Err(CommandError::Stopped),
                false => processor.execute(command),
            });
            self.lock().busy = false;
            self.changed.notify_all();
        }
    }

    /// The next command; `None` if the stream has ended and none is left.
    fn next(&self) -> Option<(Command, Done)> {
        let mut queue = self.lock();
        loop {
            if let Some(next) = queue.waiting.pop_front() {
                queue.busy = true;
                return Some(next);
            }
            if queue.over {
                return None;
            }
            queue = self.wait(queue);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed
            .wait(queue)
            .unwrap_or_else(PoisonError::into_inner)
    }
}
