//! The threads that serve armed memory: fault handlers, one that makes room and one that brings pages ahead of their touches.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmem_core::engine::{Engine, FaultError};
use gmem_core::page::{PAGE_SIZE, PageNo};
use vmm_sys_util::signal::Killable;

use super::failure::Failure;
use super::ram::GuestRam;
use super::userfault::{EVENTS_PER_READ, Event, Userfault};
use crate::kvm::{affinity, kick};

/// What a thread of the service works with.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) engine: Arc<Engine>,
    pub(super) userfault: Arc<Userfault>,
    pub(super) ram: Arc<GuestRam>,
    pub(super) failure: Arc<Failure>,
}

/// Running threads. [`Service::stop`] ends them; while a vCPU can run they must not end.
pub(super) struct Service {
    stop: Arc<AtomicBool>,
    engine: Arc<Engine>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts a fault handler on each of `cpus` and the threads in the background.
    ///
    /// A handler is pinned where its vCPUs are: waking a thread of the same CPU costs a tenth of waking
    /// one of another. More blocked readers than CPUs would all be woken by each event.
    pub(super) fn start(parts: &Parts, cpus: &[usize]) -> io::Result<Self> {
        kick::install_handler()?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut service = Self {
            stop: Arc::clone(&stop),
            engine: Arc::clone(&parts.engine),
            threads: Vec::new(),
        };
        let mut cpus = cpus.to_vec();
        cpus.sort_unstable();
        cpus.dedup();
        for cpu in cpus {
            let (parts, stop) = (parts.clone(), Arc::clone(&stop));
            let handler = thread::Builder::new()
                .name(format!("fault{cpu}"))
                .spawn(move || {
                    // Not fatal: slower, but right.
                    let _ = affinity::pin(cpu);
                    parts.serve(&stop);
                })?;
            service.threads.push(handler);
        }
        let mut spawn = |name: &str, run: fn(&Engine, &AtomicBool) -> Result<(), FaultError>| {
            let (parts, stop) = (parts.clone(), Arc::clone(&stop));
            let body = move || {
                if let Err(error) = run(&parts.engine, &stop) {
                    parts.failure.record(error);
                }
            };
            let thread = thread::Builder::new().name(name.into()).spawn(body)?;
            service.threads.push(thread);
            Ok::<_, io::Error>(())
        };
        spawn("reclaim", Engine::run_background)?;
        spawn("ahead", |engine, _| engine.run_ahead())?;
        Ok(service)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.engine.wake_background();
        self.engine.stop_ahead();
        for thread in self.threads.drain(..) {
            // A reader may be about to block when the signal comes, so one is not enough.
            while !thread.is_finished() {
                let _ = thread.kill(kick::kick_signal());
                thread::sleep(Duration::from_micros(200));
            }
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Parts {
    /// Handles faults until `stop` is set and a signal interrupts the wait for the next.
    fn serve(&self, stop: &AtomicBool) {
        let mut faults = self.engine.faults();
        let mut events = [Event::default(); EVENTS_PER_READ];
        while !stop.load(Ordering::Acquire) {
            let count = match self.userfault.read_events(&mut events) {
                Ok(count) => count,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                    ) =>
                {
                    continue;
                }
                Err(error) => {
                    self.failure
                        .record(format_args!("userfaultfd cannot be read: {error}"));
                    return;
                }
            };
            let arrived = Instant::now();
            for event in &events[..count] {
                let Some(gpa) = self.ram.guest_address(event.address) else {
                    continue;
                };
                if event.write_protected {
                    // Accelerators give up their copies before it is written.
                    if let Err(error) = self.engine.write_fault(PageNo::of_address(gpa)) {
                        self.failure.record(error);
                    }
                    continue;
                }
                if let Err(error) =
                    faults.handle_for(event.thread, PageNo::of_address(gpa), arrived)
                {
                    self.failure.record(error);
                    // The vCPU that waits must not see anything but the page's bytes, and they are
                    // gone: its access fails, and the microVM ends.
                    kick::pages_are_lost();
                    if let Err(error) = self.userfault.poison(event.address, PAGE_SIZE) {
                        self.failure.record(error);
                    }
                }
            }
        }
    }
}
