//! The control socket's thread: one for all clients. It waits for nobody but the microVM.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::connection::Connection;
use super::protocol::{
    self, ActivityAnswer, BalloonAnswer, BudgetAnswer, PluggedAnswer, Request, Status,
};
use crate::devices::Devices;
use crate::figures::Figures;
use crate::kvm::control::{Activity, StillRunning, VcpuControl};
use crate::memory::managed::ManagedMemory;
use crate::socket::Socket;

/// Clients at a time. More wait until one has gone, which takes [`super::connection::PATIENCE`] at most.
const MAX_CLIENTS: usize = 16;
/// How long vCPUs have to stand still for `pause`. Other clients wait meanwhile.
const PAUSE_LIMIT: Duration = Duration::from_secs(2);
/// Between attempts when the host has no descriptor for another client.
const BREATH: Duration = Duration::from_millis(100);

/// What is controlled.
#[derive(Clone)]
pub struct Target {
    /// The guest's memory.
    pub memory: Arc<ManagedMemory>,
    /// Its vCPUs.
    pub vcpus: VcpuControl,
    /// Its devices.
    pub devices: Arc<Devices>,
}

/// A thread that serves a control socket. Dropping the value ends it and removes the socket's file.
pub struct Server {
    shared: Arc<Shared>,
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// Readable: the thread is to end.
    close: EventFd,
    /// Who asked for the end of the run.
    stop: OnceLock<String>,
}

/// Why `pause` is not in force.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0}: they wait for pages, and pause as soon as they have them; raise the budget, or take the pause back \
     with resume"
)]
struct NotPaused(StillRunning);

impl Server {
    /// Serves `socket` until the value is dropped. The calling thread's blocked signals are the server's too.
    pub fn start(socket: Socket, target: Target) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            close: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            stop: OnceLock::new(),
        });
        let listener = socket.listener().try_clone()?;
        let path = socket.path().display().to_string();
        let desk = Desk {
            target,
            path,
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new()
            .name("api".into())
            .spawn(move || desk.serve(&listener))?;
        Ok(Self {
            shared,
            socket,
            thread: Some(thread),
        })
    }

    /// Who asked for the end of the run, in words, if somebody did.
    pub fn stop_asked(&self) -> Option<String> {
        self.shared.stop.get().cloned()
    }

    /// Removes the socket's file and lets the thread end, without waiting for it.
    pub fn close(&mut self) {
        self.socket.remove();
        // The counter cannot overflow: it is never written often.
        let _ = self.shared.close.write(1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// What the thread works with.
struct Desk {
    target: Target,
    path: String,
    shared: Arc<Shared>,
}

impl Desk {
    fn serve(&self, listener: &std::os::unix::net::UnixListener) {
        let mut clients: Vec<Connection> = Vec::new();
        loop {
            let mut polled = vec![readable(&self.shared.close)];
            polled.extend(clients.iter().map(|client| libc::pollfd {
                fd: client.as_raw_fd(),
                events: client.events(),
                revents: 0,
            }));
            let room = clients.len() < MAX_CLIENTS;
            if room {
                polled.push(readable(listener));
            }
            let limit = if clients.iter().any(Connection::has_request) {
                Some(Duration::ZERO)
            } else {
                clients.iter().map(Connection::time_left).min()
            };
            if poll(&mut polled, limit).is_err() || polled[0].revents != 0 {
                return;
            }
            clients.retain_mut(|client| client.turn(|client, line| self.answer(client, line)));
            if room && polled.last().is_some_and(|polled| polled.revents != 0) {
                match listener.accept() {
                    // A client that cannot be served finds its connection closed.
                    Ok((stream, _)) => clients.extend(Connection::new(stream)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => thread::sleep(BREATH),
                }
            }
        }
    }

    fn answer(&self, client: &Connection, line: &[u8]) -> Vec<u8> {
        let Target {
            memory,
            vcpus,
            devices,
        } = &self.target;
        let activity = || ActivityAnswer {
            state: vcpus.activity(),
        };
        let request = match Request::parse(line) {
            Ok(request) => request,
            Err(error) => return protocol::failed(&error),
        };
        match request {
            Request::Status {} => protocol::done(self.status()),
            Request::Budget { bytes } => match memory.set_budget(bytes, vcpus, devices) {
                Ok(()) => protocol::done(BudgetAnswer {
                    budget_bytes: bytes,
                    used_bytes: memory.resident_bytes(),
                }),
                Err(error) => protocol::failed(&error),
            },
            Request::Balloon { bytes } => match devices.set_balloon(bytes) {
                Ok(()) => protocol::done(self.balloon().unwrap_or_default()),
                Err(error) => protocol::failed(&error),
            },
            Request::Plug { bytes } => match devices.set_plugged(bytes) {
                Ok(()) => protocol::done(self.plugged().unwrap_or_default()),
                Err(error) => protocol::failed(&error),
            },
            Request::Pause {} => match vcpus.pause(PAUSE_LIMIT) {
                Ok(()) => protocol::done(activity()),
                Err(_) if vcpus.activity() == Activity::Ended => {
                    protocol::failed(&"the run is over")
                }
                Err(still) => protocol::failed(&NotPaused(still)),
            },
            Request::Resume {} => {
                vcpus.resume();
                protocol::done(activity())
            }
            Request::Stop {} => {
                let by = format!("`stop` on {} ({})", self.path, client.peer());
                // Whoever asks first is named.
                let _ = self.shared.stop.set(by);
                protocol::done(serde_json::Map::new())
            }
        }
    }

    fn balloon(&self) -> Option<BalloonAnswer> {
        let control = self.target.devices.balloon()?;
        Some(BalloonAnswer {
            target_bytes: control.target_bytes(),
            actual_bytes: control.actual_bytes(),
        })
    }

    fn plugged(&self) -> Option<PluggedAnswer> {
        let control = self.target.devices.plugged()?;
        Some(PluggedAnswer {
            requested_bytes: control.requested_bytes(),
            plugged_bytes: control.plugged_bytes(),
        })
    }

    fn status(&self) -> Status {
        let Target {
            memory,
            vcpus,
            devices,
            ..
        } = &self.target;
        let figures = Figures::of(memory, devices);
        Status {
            state: vcpus.activity(),
            armed: figures.snapshot.is_some(),
            budget_bytes: memory.budget(),
            balloon: self.balloon(),
            plugged: self.plugged(),
            waiting: figures.snapshot.map_or(0, |snapshot| snapshot.waiting),
            memory: figures.memory,
            devices: figures.devices,
            faults: figures.faults,
            migrations: figures.migrations,
        }
    }
}

fn readable(fd: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits until something happens to one of the descriptors, `limit` at most.
fn poll(polled: &mut [libc::pollfd], limit: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that the last wait does not become a busy loop.
    let millis = limit.map_or(-1, |limit| limit.as_micros().div_ceil(1000) as libc::c_int);
    // SAFETY: the slice is writable and its length is given.
    let rc = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
    if rc < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}
