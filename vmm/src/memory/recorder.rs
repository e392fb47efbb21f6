//! Which pages a guest touches, in order, as a trace for the simulation of policies.
//!
//! In place of the engine, a guest's memory is served through a window: a few pages are let in, first in, first out, and
//! each fault is a touch in the trace. So whatever is touched is among the last pages of the trace, as many as the
//! window has; what is touched again while it is in the window is not seen. [docs/policy.md](../../../docs/policy.md) says
//! what that means for policies.

mod window;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gmem_core::page::PAGE_SIZE;
use gmem_core::policy::simulation::recorded::Writer;
use vmm_sys_util::signal::Killable;

use super::arming::{ArmError, step};
use super::failure::Failure;
use super::ram::GuestRam;
use super::server::{Server, Serving};
use crate::kvm::{affinity, kick};
use window::Window;

/// For each vCPU: pages that an instruction may need at once, with those that translate its addresses, and some to spare. With
/// fewer, a vCPU could lose the first of them before the last has come.
pub const LEAST_WINDOW: u32 = 32;

/// Serves one microVM's memory and records its touches.
pub struct Recorder {
    path: PathBuf,
    window: u32,
    recording: Arc<Mutex<Recording>>,
}

/// What the recorder has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Touches in the file.
    pub touches: u64,
    /// Touches after them, of which the file has no more room.
    pub unrecorded: u64,
    /// How often a page stayed although it was its turn to leave, because the kernel had it in use.
    pub stayed: u64,
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recorded {} touches", self.touches)?;
        if self.unrecorded > 0 {
            write!(f, ", and no more: {} came after them", self.unrecorded)?;
        }
        if self.stayed > 0 {
            write!(
                f,
                "; {} times a page in use by the kernel stayed longer",
                self.stayed
            )?;
        }
        Ok(())
    }
}

/// No recording could be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "recording {path} cannot be written: {source}; give --record a file in a writable directory"
)]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

struct Recording {
    /// Until the guest runs.
    file: Option<File>,
    writer: Option<Writer<BufWriter<File>>>,
    unrecorded: u64,
    stayed: u64,
}

impl Recorder {
    /// Makes the file at `path`, for a window of `window` pages, or of [`LEAST_WINDOW`] for each vCPU if that is more.
    ///
    /// # Errors
    /// If the file cannot be made, or is one in which nobody can go back.
    pub fn create(path: &Path, window: u32) -> Result<Self, RecordError> {
        let file = File::create(path).and_then(|mut file| {
            file.stream_position()?;
            Ok(file)
        });
        let file = file.map_err(|source| RecordError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            window,
            recording: Arc::new(Mutex::new(Recording {
                file: Some(file),
                writer: None,
                unrecorded: 0,
                stayed: 0,
            })),
        })
    }

    /// Ends the recording of a guest that has ended; `None` if it has never begun, or was ended before.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn finish(&self) -> Result<Option<Recorded>, RecordError> {
        let mut recording = lock(&self.recording);
        let Some(writer) = recording.writer.take() else {
            return Ok(None);
        };
        let touches = writer.finish().map_err(|source| RecordError {
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(Recorded {
            touches,
            unrecorded: recording.unrecorded,
            stayed: recording.stayed,
        }))
    }
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server for Recorder {
    fn serve(
        &self,
        ram: &Arc<GuestRam>,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Box<dyn Serving>, ArmError> {
        let end = ram.mapped().map(|region| region.end()).max().unwrap_or(0);
        let pages = end / PAGE_SIZE as u64;
        let window = self.window.max(LEAST_WINDOW * cpus.len() as u32);
        {
            let mut recording = lock(&self.recording);
            let file = recording.file.take().ok_or_else(|| {
                step("recording")(io::Error::other("one recorder records one microVM"))
            })?;
            let writer = Writer::new(BufWriter::new(file), pages, window);
            recording.writer = Some(writer.map_err(step("writing the recording"))?);
        }
        let recording = Arc::clone(&self.recording);
        let mut window = Window::new(ram, pages, window, recording, failure)?;
        let threads = "starting threads";
        kick::install_handler().map_err(step(threads))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cpu = cpus.first().copied().filter(|_| cpus.len() == 1);
        let body = move || {
            if let Some(cpu) = cpu {
                // Not fatal: slower, but right.
                let _ = affinity::pin(cpu);
            }
            window.handle_faults(&stopped);
        };
        let thread = thread::Builder::new().name("record".into()).spawn(body);
        let thread = Some(thread.map_err(step(threads))?);
        Ok(Box::new(Handler { stop, thread }))
    }
}

/// The one thread that serves pages: the order of touches is that in which it learns of them.
struct Handler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving for Handler {}

impl Drop for Handler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
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
