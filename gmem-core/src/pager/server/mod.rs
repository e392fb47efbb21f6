//! The side that lends memory.
//!
//! Each connection is served by a thread of its own, one request after the other: a client that floods the server, or does not
//! take its answers, holds up itself. A client's pages are its own; another can neither name nor guess them. Nothing that a
//! client sends is trusted: lengths and numbers are checked, its versions and seals only kept.

mod client;
mod pages;
mod pool;
mod session;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pager_wire::body::Drain;
use pager_wire::{Header, Kind};
use zerocopy::IntoBytes;

use super::channel::Channel;
use crate::hnode::{Hnode, Usage};
use client::Client;
use pool::Pool;
use session::Session;

/// What a server allows.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pages that one client may have room for.
    pub quota_pages: u64,
    /// Clients at once, those that are away included.
    pub clients: usize,
    /// Requests of a client that may be under way at once.
    pub credits: u16,
    /// For how long the pages of a client that has gone without a word are kept.
    pub keep: Duration,
    /// What a client has to know, where its channel does not say who it is; zeros if nothing.
    pub token: [u8; 32],
    /// Who lends this server what it lends, if it borrows.
    pub origin: Option<[u8; 16]>,
}

/// Sums over all clients, since the server was made.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pages read.
    pub read_pages: AtomicU64,
    /// Pages written.
    pub written_pages: AtomicU64,
    /// Requests of all kinds.
    pub requests: AtomicU64,
    /// Requests that were refused.
    pub refused: AtomicU64,
    /// Connections that ended because their client broke the protocol.
    pub offences: AtomicU64,
}

/// Lends memory to clients.
pub struct Server {
    config: Config,
    pool: Pool,
    clients: Mutex<HashMap<[u8; 16], Arc<Client>>>,
    incarnation: [u8; 16],
    draining: AtomicBool,
    counters: Counters,
}

/// How a server is doing.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Clients, and how many of them are connected.
    pub clients: usize,
    /// Of those so many are connected.
    pub connected: usize,
    /// Pages promised to clients.
    pub promised_pages: u64,
    /// Pages that clients have stored.
    pub stored_pages: u64,
    /// Pages that it can hold.
    pub capacity_pages: u64,
    /// What it lends: name and use of each.
    pub lent: Vec<(String, Usage)>,
}

impl Server {
    /// A server that lends `hnodes`, nearest first.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn new(config: Config, hnodes: Vec<Box<dyn Hnode>>) -> std::io::Result<Self> {
        Ok(Self {
            config,
            pool: Pool::new(hnodes),
            clients: Mutex::default(),
            incarnation: random()?,
            draining: AtomicBool::new(false),
            counters: Counters::default(),
        })
    }

    /// Serves one connection until it ends.
    pub fn serve(&self, channel: Arc<dyn Channel>) {
        Session::new(self, channel).run();
    }

    /// From now on pages are given back and none are taken; every client is told, and that the server ends in `within`.
    pub fn drain(&self, within: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let event = Drain {
            within_us: (within.as_micros() as u64).into(),
        };
        let channels: Vec<_> = self
            .clients()
            .values()
            .filter_map(|client| client.channel())
            .collect();
        // At once: one that takes nothing does not keep the others from being told in time.
        std::thread::scope(|scope| {
            for channel in channels {
                let tell = move || {
                    // Who has gone needs not be told.
                    let _ = channel.send(Header::event(Kind::Drain), event.as_bytes(), &[]);
                };
                // Without a thread it is told by this one.
                let thread = std::thread::Builder::new().name("drain".into());
                if thread.spawn_scoped(scope, tell.clone()).is_err() {
                    tell();
                }
            }
        });
    }

    /// Ends all connections: their threads return.
    pub fn close(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for client in self.clients().values() {
            client.disconnect();
        }
    }

    /// Forgets clients that have been away for longer than their pages are kept.
    pub fn forget_lost(&self) {
        let now = Instant::now();
        let keep = self.config.keep;
        let lost: Vec<Arc<Client>> = {
            let mut clients = self.clients();
            let gone = clients
                .extract_if(|_, client| client.away_for(now).is_some_and(|away| away > keep));
            gone.map(|(_, client)| client).collect()
        };
        lost.iter().for_each(|client| client.drop_all(&self.pool));
    }

    /// How it is doing.
    pub fn summary(&self) -> Summary {
        let clients: Vec<_> = self.clients().values().cloned().collect();
        Summary {
            clients: clients.len(),
            connected: clients
                .iter()
                .filter(|client| client.channel().is_some())
                .count(),
            promised_pages: self.pool.promised(),
            stored_pages: clients.iter().map(|client| client.stored()).sum(),
            capacity_pages: self.pool.capacity(),
            lent: self
                .pool
                .hnodes()
                .iter()
                .map(|it| (it.name().to_owned(), it.usage()))
                .collect(),
        }
    }

    /// What it has done.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<[u8; 16], Arc<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random() -> std::io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
