//! `gmem run --donate`: clients of a guest that lends memory.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gmem_core::pager::channel::Channel;
use gmem_core::pager::wire::body::Drain;
use gmem_core::pager::wire::zerocopy::IntoBytes;
use gmem_core::pager::wire::{Header, Kind};
use gmem_devices::virtio::gmem::{CONNECTIONS, Calls};

use super::listen::{Connecting, Listener};
use super::relay::Relay;
use crate::poll::poll;

/// How often clients that have gone, and the end, are looked for.
const TICK: Duration = Duration::from_millis(50);
/// For how long a client counts whose connection broke; the guest keeps its pages for as long (docs/pager.md).
const KEEP: Duration = Duration::from_secs(60);
/// How long connections have to end when all is over.
const LAST: Duration = Duration::from_secs(2);

/// Who has pages in the guest.
#[derive(Default)]
pub(super) struct Clients {
    known: Mutex<HashMap<[u8; 16], Client>>,
    draining: Mutex<Option<Duration>>,
}

enum Client {
    Connected(Arc<dyn Channel>),
    Away(Instant),
}

/// Connections that are served, whether their clients have attached or not.
type Channels = Arc<Mutex<Vec<Arc<dyn Channel>>>>;

/// A guest's memory on offer, until it is dropped.
pub struct Donation {
    calls: Arc<Calls>,
    clients: Arc<Clients>,
    channels: Channels,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clients {
    pub(super) fn is_draining(&self) -> bool {
        lock(&self.draining).is_some()
    }

    /// A client has attached, on this connection from here on.
    pub(super) fn came(&self, client: [u8; 16], channel: &Arc<dyn Channel>) {
        let connected = Client::Connected(Arc::clone(channel));
        if let Some(Client::Connected(older)) = lock(&self.known).insert(client, connected) {
            older.close();
        }
    }

    /// Tells a client that the guest is about to end, if it is.
    pub(super) fn remind(&self, channel: &Arc<dyn Channel>) {
        let draining = *lock(&self.draining);
        if let Some(within) = draining {
            tell(channel, within);
        }
    }

    /// It has no pages any more.
    pub(super) fn detached(&self, client: [u8; 16]) {
        lock(&self.known).remove(&client);
    }

    /// Its connection has ended, if it is still this one.
    pub(super) fn left(&self, client: [u8; 16], channel: &Arc<dyn Channel>, now: Instant) {
        if let Some(known) = lock(&self.known).get_mut(&client)
            && matches!(known, Client::Connected(it) if Arc::ptr_eq(it, channel))
        {
            *known = Client::Away(now);
        }
    }

    fn forget_lost(&self) {
        let lost =
            |client: &Client| matches!(client, Client::Away(since) if since.elapsed() > KEEP);
        lock(&self.known).retain(|_, client| !lost(client));
    }
}

/// Tells a client that it is to take its pages back.
fn tell(channel: &Arc<dyn Channel>, within: Duration) {
    let event = Drain {
        within_us: (within.as_micros() as u64).into(),
    };
    // Who has gone needs not be told.
    let _ = channel.send(Header::event(Kind::Drain), event.as_bytes(), &[]);
}

impl Donation {
    /// Serves those who connect to `listener`, by way of `calls`.
    ///
    /// # Errors
    ///
    /// The host has no thread left.
    pub fn start(listener: Listener, calls: Arc<Calls>) -> io::Result<Self> {
        let mut donation = Self {
            calls,
            clients: Arc::default(),
            channels: Arc::default(),
            over: Arc::default(),
            thread: None,
        };
        let (calls, clients) = (Arc::clone(&donation.calls), Arc::clone(&donation.clients));
        let (channels, over) = (Arc::clone(&donation.channels), Arc::clone(&donation.over));
        let listen = move || {
            while !over.load(Ordering::Acquire) {
                if poll([listener.as_raw_fd()], Some(TICK)).is_err() {
                    return;
                }
                clients.forget_lost();
                // Who cannot be served now is refused; a host without descriptors may have some later.
                while let Ok(Some(connecting)) = listener.accept() {
                    serve(connecting, &calls, &clients, &channels);
                }
            }
        };
        let thread = thread::Builder::new().name("donate".into()).spawn(listen)?;
        donation.thread = Some(thread);
        Ok(donation)
    }

    /// From now on pages are given back and none are taken; every client is told that the guest ends in `within`.
    pub fn drain(&self, within: Duration) {
        *lock(&self.clients.draining) = Some(within);
        let connected = |client: &Client| match client {
            Client::Connected(channel) => Some(Arc::clone(channel)),
            Client::Away(_) => None,
        };
        let told: Vec<_> = lock(&self.clients.known)
            .values()
            .filter_map(connected)
            .collect();
        told.iter().for_each(|channel| tell(channel, within));
    }

    /// How many clients have not detached: those that are away for a while are among them.
    pub fn clients(&self) -> usize {
        lock(&self.clients.known).len()
    }

    /// Ends all connections, and tells the guest to stop lending.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
        lock(&self.channels)
            .iter()
            .for_each(|channel| channel.close());
        self.calls.end();
    }
}

impl Drop for Donation {
    fn drop(&mut self) {
        self.end();
        self.calls.hang_up();
        if let Some(thread) = self.thread.take() {
            // A panic has been printed.
            let _ = thread.join();
        }
        let patience = Instant::now() + LAST;
        while !lock(&self.channels).is_empty() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Serves a connection by a thread of its own, if there are not too many.
fn serve(connecting: Connecting, calls: &Arc<Calls>, clients: &Arc<Clients>, channels: &Channels) {
    // Before the guest is asked: who connects and says nothing takes up a place here, not there.
    if lock(channels).len() >= CONNECTIONS {
        return;
    }
    let Ok(channel) = connecting() else { return };
    lock(channels).push(Arc::clone(&channel));
    let (calls, clients, all) = (Arc::clone(calls), Arc::clone(clients), Arc::clone(channels));
    let ours = Arc::clone(&channel);
    let serve = move || {
        // The guest may not have heard yet that others have gone.
        if let Some(line) = calls.connect() {
            let relay = Relay {
                clients: &clients,
                channel: &channel,
                line,
            };
            relay.run();
        }
        channel.close();
        lock(&all).retain(|it| !Arc::ptr_eq(it, &channel));
    };
    let started = thread::Builder::new().name("client".into()).spawn(serve);
    if started.is_err() {
        ours.close();
        lock(channels).retain(|it| !Arc::ptr_eq(it, &ours));
    }
}
