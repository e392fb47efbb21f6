//! Redis or Valkey as a holder of pages: each version of a page is a value, requests are pipelined.
//!
//! A server, or a cluster with its own replicas and failover, for which the crate `redis` finds the node of each key. A few threads have a
//! connection each, so that the next requests are under way while the answers of one are looked at.

mod connection;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pager_wire::{PAGE_LEN, Page};

use super::holder::{Health, Holder, HolderError, Ticket, Verb};
use connection::{Link, Servers};

/// Connections.
const THREADS: usize = 3;
/// Requests that may wait or be under way.
const MOST: usize = 24;
/// How long a server may take to answer before the connection is given up.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again.
const BREATH: Duration = Duration::from_millis(100);

/// Pages in a store.
pub struct RedisStore {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    name: String,
    /// Of all keys of this client.
    prefix: String,
    servers: Servers,
    state: Mutex<State>,
    /// Rung for the threads.
    work: Condvar,
    /// Rung for those who wait.
    done: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    answers: HashMap<u64, Answer>,
    /// Of those who do not wait any more.
    abandoned: Vec<u64>,
    under_way: usize,
    next: u64,
    /// Connections that work.
    up: usize,
    broken: String,
    life: u64,
    stop: bool,
}

struct Job {
    id: u64,
    verb: Verb,
    pages: Vec<Page>,
    bytes: Vec<u8>,
    until: Instant,
}

type Answer = Result<(Vec<Page>, Vec<u8>), HolderError>;

impl RedisStore {
    /// Pages at the servers at `places` (`host:port`), called `name` in messages.
    pub fn new(name: String, places: &[String]) -> std::io::Result<Self> {
        let failed = |error: redis::RedisError| std::io::Error::other(error.to_string());
        let servers = Servers::find(places).map_err(failed)?;
        let id = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
        let prefix = format!("gmem:{id:016x}");
        servers
            .connect(DEADLINE)
            .and_then(|mut link| link.mark(&prefix, true))
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            name,
            prefix,
            servers,
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                answers: HashMap::new(),
                abandoned: Vec::new(),
                under_way: 0,
                next: 1,
                up: THREADS,
                broken: "not connected yet".into(),
                life: 1,
                stop: false,
            }),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut threads = Vec::with_capacity(THREADS);
        for _ in 0..THREADS {
            let works = Arc::clone(&shared);
            threads.push(
                thread::Builder::new()
                    .name("redis".into())
                    .spawn(move || works.work())?,
            );
        }
        Ok(Self { shared, threads })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does.
    fn work(&self) {
        let mut link = None;
        let mut was_up = true;
        loop {
            if link.is_none() {
                let connected = self.connect();
                let mut state = self.lock();
                if state.stop {
                    return;
                }
                match connected {
                    Ok(made) => {
                        link = Some(made);
                        state.up += usize::from(!was_up);
                        was_up = true;
                    }
                    Err(error) => {
                        state.up -= usize::from(was_up);
                        was_up = false;
                        state.broken = error.to_string();
                        drop(self.work.wait_timeout(state, BREATH));
                        continue;
                    }
                }
            }
            let idle = |state: &mut State| state.jobs.is_empty() && !state.stop;
            let mut state = self
                .work
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
            let Some(job) = state.jobs.pop_front() else {
                return;
            };
            drop(state);
            let Some(connection) = link.as_mut() else {
                continue;
            };
            let answer = self.serve(connection, &job);
            if let Err(HolderError::Down(_)) = answer {
                link = None;
            }
            let mut state = self.lock();
            state.under_way -= 1;
            match state.abandoned.iter().position(|id| *id == job.id) {
                Some(at) => {
                    state.abandoned.swap_remove(at);
                }
                None => {
                    state.answers.insert(job.id, answer);
                }
            }
            drop(state);
            self.done.notify_all();
        }
    }

    /// A connection; notices if the servers have forgotten what they had.
    fn connect(&self) -> redis::RedisResult<Link> {
        let mut link = self.servers.connect(DEADLINE)?;
        if !link.mark(&self.prefix, false)? {
            let mut state = self.lock();
            if !link.mark(&self.prefix, false)? {
                state.life += 1;
                link.mark(&self.prefix, true)?;
            }
        }
        Ok(link)
    }

    fn serve(&self, link: &mut Link, job: &Job) -> Answer {
        if Instant::now() > job.until {
            return Err(HolderError::Late);
        }
        let nothing = |()| (Vec::new(), Vec::new());
        let served = match job.verb {
            Verb::Write => link
                .write(&self.prefix, &job.pages, &job.bytes)
                .map(nothing),
            Verb::Free => link.free(&self.prefix, &job.pages).map(nothing),
            Verb::Read | Verb::ReadAhead => link.read(&self.prefix, &job.pages),
        };
        served.map_err(|error| HolderError::Down(error.to_string()))
    }
}

impl Holder for RedisStore {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn health(&self) -> Health {
        let state = self.shared.lock();
        Health {
            up: state.up > 0,
            life: state.life,
            draining: false,
        }
    }

    fn trouble(&self) -> Option<String> {
        let state = self.shared.lock();
        (state.up == 0).then(|| state.broken.clone())
    }

    fn keeps_versions(&self) -> bool {
        true
    }

    fn start(
        &self,
        verb: Verb,
        pages: &[Page],
        data: &[u8],
        until: Instant,
    ) -> Result<Ticket, HolderError> {
        let full = |state: &mut State| state.under_way >= MOST && state.up > 0;
        let rest = until.saturating_duration_since(Instant::now());
        let waited = self
            .shared
            .done
            .wait_timeout_while(self.shared.lock(), rest, full);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.up == 0 {
            return Err(HolderError::Down(state.broken.clone()));
        }
        if timeout.timed_out() && state.under_way >= MOST {
            return Err(HolderError::Late);
        }
        let id = state.next;
        state.next += 1;
        state.under_way += 1;
        state.jobs.push_back(Job {
            id,
            verb,
            pages: pages.to_vec(),
            bytes: data.to_vec(),
            until,
        });
        drop(state);
        self.shared.work.notify_one();
        Ok(Ticket { epoch: 0, id })
    }

    fn finish(
        &self,
        ticket: Ticket,
        found: &mut Vec<Page>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<(), HolderError> {
        let missing = |state: &mut State| !state.answers.contains_key(&ticket.id);
        let rest = until.saturating_duration_since(Instant::now());
        let waited = self
            .shared
            .done
            .wait_timeout_while(self.shared.lock(), rest, missing);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(answer) = state.answers.remove(&ticket.id) else {
            state.abandoned.push(ticket.id);
            return Err(HolderError::Late);
        };
        drop(state);
        let (pages, bytes) = answer?;
        if bytes.len() != into.len() || pages.len() * PAGE_LEN != bytes.len() {
            return Err(HolderError::Refused(
                "it answered with other pages than were asked for",
            ));
        }
        into.copy_from_slice(&bytes);
        *found = pages;
        Ok(())
    }

    fn ended(&self, ticket: &Ticket) -> Option<Result<(), HolderError>> {
        let answer = self.shared.lock().answers.remove(&ticket.id)?;
        Some(answer.map(|_| ()))
    }

    fn receive(&self, until: Instant) {
        let rest = until.saturating_duration_since(Instant::now());
        // Answers come by themselves.
        drop(self.shared.done.wait_timeout(self.shared.lock(), rest));
    }

    fn tend(&self) {}

    fn leave(&self) {
        let gone = self
            .shared
            .servers
            .connect(DEADLINE)
            .and_then(|mut link| link.unmark(&self.shared.prefix));
        // A server that is not there has nothing to forget.
        drop(gone);
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A panic of its has been reported.
            let _ = thread.join();
        }
    }
}
