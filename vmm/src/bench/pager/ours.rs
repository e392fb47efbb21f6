//! Pages over our channels.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::hnode::remote::{OnFailure, Options, Remote};
use gmem_core::hnode::{Frame, Hnode};
use gmem_core::page::PAGE_SIZE;
use gmem_core::pager::channel::{Channel, tcp, unix};
use gmem_core::pager::client::{self, Client};
use gmem_core::pager::holder::{Holder, HolderError, Verb};
use gmem_core::pager::server::{Config, Server};
use gmem_core::pager::wire::Page;
use gmem_core::pager::wire::body::Features;

use super::{BATCH, BATCH_BYTES, rate, typical};

/// Batches under way at once.
pub(super) const DEPTH: usize = 4;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the n-th batch begins in so many bytes: everywhere, in no order that a cache could know.
pub(super) fn place(n: usize, bytes: usize) -> usize {
    let batches = bytes / BATCH_BYTES;
    (n.wrapping_mul(0x9e37_79b9) >> 3) % batches * BATCH_BYTES
}

/// Which channel.
#[derive(Clone, Copy)]
pub(super) enum Over {
    Unix,
    Tcp,
}

/// A client of a server of its own.
fn holder(over: Over, memory: usize) -> io::Result<Arc<dyn Holder>> {
    let pages = (memory / PAGE_SIZE) as u64;
    let ram = Hbm::new("ram", memory as u64, Link::new(0.0, 0.0))?;
    let config = Config {
        quota_pages: pages,
        clients: 1,
        credits: 8,
        keep: Duration::ZERO,
        token: [0; 32],
        origin: None,
    };
    let server = Arc::new(Server::new(config, vec![Box::new(ram)])?);
    let dial = move || -> io::Result<Arc<dyn Channel>> {
        let server = Arc::clone(&server);
        let serve = move |far: io::Result<Arc<dyn Channel>>| {
            // The client finds out that there is nobody.
            if let Ok(far) = far {
                server.serve(far);
            }
        };
        match over {
            Over::Unix => {
                let (near, far) = UnixStream::pair()?;
                thread::spawn(move || {
                    serve(unix::accept(far).map(|it| Arc::new(it) as Arc<dyn Channel>))
                });
                Ok(Arc::new(unix::channel(near)?))
            }
            Over::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let near = TcpStream::connect(listener.local_addr()?)?;
                let (far, _) = listener.accept()?;
                thread::spawn(move || {
                    serve(tcp::channel(far).map(|it| Arc::new(it) as Arc<dyn Channel>))
                });
                Ok(Arc::new(tcp::channel(near)?))
            }
        }
    };
    let options = client::Options {
        pages,
        features: Features::RING,
        token: [0; 32],
        origin: [0; 16],
    };
    let client = Client::attach("bench".into(), Box::new(dial), options);
    Ok(Arc::new(client.map_err(io::Error::other)?))
}

fn failed(error: HolderError) -> io::Error {
    io::Error::other(error)
}

/// Pages that are read as they are.
pub(super) struct Reader {
    holder: Arc<dyn Holder>,
    memory: usize,
}

impl Reader {
    pub(super) fn new(over: Over, memory: usize) -> io::Result<Self> {
        let reader = Self {
            holder: holder(over, memory)?,
            memory,
        };
        let bytes = vec![7; BATCH_BYTES];
        for batch in 0..memory / BATCH_BYTES {
            let until = Instant::now() + PATIENCE;
            let pages = pages(batch * BATCH, BATCH);
            let ticket = reader
                .holder
                .start(Verb::Write, &pages, &bytes, until)
                .map_err(failed)?;
            reader
                .holder
                .finish(ticket, &mut Vec::new(), &mut [], until)
                .map_err(failed)?;
        }
        Ok(reader)
    }

    /// Batches, some of which are under way at any time.
    pub(super) fn batches(&self, time: Duration) -> io::Result<f64> {
        let mut into = vec![0; DEPTH * BATCH_BYTES];
        let mut found = Vec::new();
        let mut tickets = std::collections::VecDeque::new();
        let (mut next, mut done) = (0, 0);
        let found = rate(time, || {
            let until = Instant::now() + PATIENCE;
            while tickets.len() < DEPTH {
                let pages = pages(place(next, self.memory) / PAGE_SIZE, BATCH);
                tickets.push_back(
                    self.holder
                        .start(Verb::Read, &pages, &[], until)
                        .map_err(failed)?,
                );
                next += 1;
            }
            let Some(ticket) = tickets.pop_front() else {
                return Ok(0);
            };
            let at = done % DEPTH * BATCH_BYTES;
            self.holder
                .finish(ticket, &mut found, &mut into[at..at + BATCH_BYTES], until)
                .map_err(failed)?;
            done += 1;
            Ok(BATCH_BYTES)
        });
        for ticket in tickets {
            self.holder
                .finish(
                    ticket,
                    &mut Vec::new(),
                    &mut into[..BATCH_BYTES],
                    Instant::now() + PATIENCE,
                )
                .map_err(failed)?;
        }
        found
    }

    /// One page, and then the next.
    pub(super) fn single(&self, time: Duration) -> io::Result<f64> {
        let mut into = vec![0; PAGE_SIZE];
        let mut found = Vec::new();
        let mut next = 0;
        typical(time, || {
            let until = Instant::now() + PATIENCE;
            let pages = pages(place(next, self.memory) / PAGE_SIZE, 1);
            next += 1;
            let ticket = self
                .holder
                .start(Verb::Read, &pages, &[], until)
                .map_err(failed)?;
            self.holder
                .finish(ticket, &mut found, &mut into, until)
                .map_err(failed)
        })
    }
}

fn pages(first: usize, count: usize) -> Vec<Page> {
    let page = |number: usize| Page {
        number: (number as u64).into(),
        version: 1.into(),
        ..Page::default()
    };
    (first..first + count).map(page).collect()
}

/// Pages as a guest's tier has them: sealed, and opened when they come back; over TCP encrypted.
pub(super) struct Tier {
    tier: Remote,
    frames: Vec<Frame>,
}

impl Tier {
    pub(super) fn new(over: Over, memory: usize) -> io::Result<Self> {
        let options = Options {
            encrypted: matches!(over, Over::Tcp),
            deadline: PATIENCE,
            on_failure: OnFailure::Fail,
        };
        let tier = Remote::new(
            "remote",
            memory as u64,
            vec![holder(over, memory)?],
            options,
        )?;
        let mut frames = Vec::new();
        let bytes = vec![7; BATCH_BYTES];
        for _ in 0..memory / BATCH_BYTES {
            tier.store_pages(&bytes, &mut |_, frame| frames.push(frame))
                .map_err(io::Error::other)?;
        }
        // So that none is read from here.
        while tier.pages_on_their_way() > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Self { tier, frames })
    }

    /// Batches, announced one ahead of the other as for a guest's stream.
    pub(super) fn batches(&self, time: Duration) -> io::Result<f64> {
        let mut into = vec![0; BATCH_BYTES];
        let memory = self.frames.len() * PAGE_SIZE;
        let batch = |n: usize| {
            let first = place(n, memory) / PAGE_SIZE;
            &self.frames[first..first + BATCH]
        };
        (0..DEPTH).for_each(|n| self.tier.announce(batch(n)));
        let mut next = 0;
        rate(time, || {
            self.tier.announce(batch(next + DEPTH));
            self.tier
                .load_pages(batch(next), &mut into)
                .map_err(io::Error::other)?;
            next += 1;
            Ok(BATCH_BYTES)
        })
    }
}
