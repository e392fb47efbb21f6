//! A hundred clients of one server, one of which is hostile.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::hnode::hbm::Hbm;
use gmem_core::hnode::link::Link;
use gmem_core::page::PAGE_SIZE;
use gmem_core::pager::channel::{Channel, unix};
use gmem_core::pager::client::{self, Client};
use gmem_core::pager::holder::{Holder, Verb};
use gmem_core::pager::server::{Config, Server};
use gmem_core::pager::wire::Page;
use gmem_core::pager::wire::body::Features;

use super::BATCH;

const CLIENTS: usize = 99;
/// Pages of each.
const PAGES: u64 = 256;
/// What a client does between two pages.
const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Crowd {
    server: Arc<Server>,
    clients: Vec<Client>,
}

impl Crowd {
    pub(super) fn new() -> io::Result<Self> {
        let bytes = (CLIENTS as u64 + 1) * PAGES * PAGE_SIZE as u64;
        let ram = Hbm::new("ram", bytes, Link::new(0.0, 0.0))?;
        let config = Config {
            quota_pages: PAGES,
            clients: CLIENTS + 1,
            credits: 8,
            keep: Duration::ZERO,
            token: [0; 32],
            origin: None,
        };
        let server = Arc::new(Server::new(config, vec![Box::new(ram)])?);
        let clients = (0..CLIENTS)
            .map(|_| attach(&server))
            .collect::<io::Result<Vec<_>>>()?;
        for client in &clients {
            write(client, 0, 1)?;
        }
        Ok(Self { server, clients })
    }

    /// What 99 in 100 reads of a page take less than, microseconds.
    pub(super) fn p99(&self, time: Duration, hostile: bool) -> io::Result<f64> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let attacker = hostile.then(|| scope.spawn(|| attack(&self.server, &stop)));
            let end = Instant::now() + time;
            let reads: Vec<_> = self
                .clients
                .iter()
                .zip(0..)
                .map(|(client, at)| scope.spawn(move || reads(client, at, end)))
                .collect();
            let mut all = Vec::new();
            for each in reads {
                all.extend(
                    each.join()
                        .map_err(|_| io::Error::other("a client panicked"))??,
                );
            }
            stop.store(true, Ordering::Relaxed);
            if let Some(attacker) = attacker {
                attacker
                    .join()
                    .map_err(|_| io::Error::other("the hostile client panicked"))??;
            }
            all.sort_by(f64::total_cmp);
            Ok(all.get(all.len() * 99 / 100).copied().unwrap_or(f64::NAN))
        })
    }
}

fn attach(server: &Arc<Server>) -> io::Result<Client> {
    let server = Arc::clone(server);
    let dial = move || -> io::Result<Arc<dyn Channel>> {
        let (near, far) = UnixStream::pair()?;
        let server = Arc::clone(&server);
        thread::spawn(move || {
            if let Ok(far) = unix::accept(far) {
                server.serve(Arc::new(far));
            }
        });
        Ok(Arc::new(unix::channel(near)?))
    };
    let options = client::Options {
        pages: PAGES,
        features: Features::RING,
        token: [0; 32],
        origin: [0; 16],
    };
    Client::attach("crowd".into(), Box::new(dial), options).map_err(io::Error::other)
}

fn page(number: u64) -> Page {
    Page {
        number: number.into(),
        version: 1.into(),
        ..Page::default()
    }
}

fn write(client: &Client, first: u64, count: usize) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let pages: Vec<Page> = (first..first + count as u64).map(page).collect();
    let bytes = vec![3; count * PAGE_SIZE];
    let ticket = client
        .start(Verb::Write, &pages, &bytes, until)
        .map_err(io::Error::other)?;
    client
        .finish(ticket, &mut Vec::new(), &mut [], until)
        .map_err(io::Error::other)
}

fn reads(client: &Client, at: u32, end: Instant) -> io::Result<Vec<f64>> {
    let mut into = vec![0; PAGE_SIZE];
    let mut found = Vec::new();
    let mut taken = Vec::new();
    thread::sleep(PAUSE * at / CLIENTS as u32);
    while Instant::now() < end {
        let start = Instant::now();
        let until = start + PATIENCE;
        let ticket = client
            .start(Verb::Read, &[page(0)], &[], until)
            .map_err(io::Error::other)?;
        client
            .finish(ticket, &mut found, &mut into, until)
            .map_err(io::Error::other)?;
        taken.push(start.elapsed().as_secs_f64() * 1e6);
        thread::sleep(PAUSE);
    }
    Ok(taken)
}

/// As much as one connection carries, beyond what it may, and connections that begin with nonsense.
fn attack(server: &Arc<Server>, stop: &AtomicBool) -> io::Result<()> {
    use std::io::Write as _;
    let client = attach(server)?;
    let mut round: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        write(&client, round * BATCH as u64 % PAGES, BATCH)?;
        if write(&client, PAGES, 1).is_ok() {
            return Err(io::Error::other("a client has more pages than its quota"));
        }
        if round.is_multiple_of(64) {
            let (mut near, far) = UnixStream::pair()?;
            let server = Arc::clone(server);
            thread::spawn(move || {
                if let Ok(far) = unix::accept(far) {
                    server.serve(Arc::new(far));
                }
            });
            // It is thrown out as soon as it has said this.
            let _ = near.write_all(&[0xff; 4096]);
        }
        round += 1;
    }
    client.leave();
    Ok(())
}
