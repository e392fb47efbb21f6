//! A Redis server of our own, and what its own benchmark gets out of it.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::page::PAGE_SIZE;
use gmem_core::pager::holder::{Holder, Verb};
use gmem_core::pager::redis_store::RedisStore;
use gmem_core::pager::wire::Page;

use super::{BATCH, BATCH_BYTES};

/// Keys that are used.
const KEYS: usize = 4096;
/// Batches under way at once.
const DEPTH: usize = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// A server, with a client of it. It ends with the value.
pub(super) struct Server {
    child: Child,
    home: PathBuf,
    port: u16,
    store: Option<RedisStore>,
}

impl Server {
    pub(super) fn start() -> io::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let home = std::env::temp_dir().join(format!("gmem-bench-redis-{port}"));
        fs::create_dir(&home)?;
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .current_dir(&home)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.map_err(|error| {
            let _ = fs::remove_dir(&home);
            io::Error::new(
                error.kind(),
                format!("redis-server: {error}; install it (Debian: redis-server), or leave it out with --no-redis"),
            )
        })?;
        let mut server = Self {
            child,
            home,
            port,
            store: None,
        };
        let patience = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > patience {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "redis-server does not listen",
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let store = RedisStore::new("redis".into(), &[format!("127.0.0.1:{port}")])?;
        server.store = Some(store);
        server.write(Duration::from_millis(1))?;
        // Its keys are there before they are read.
        server.benchmark("set", Duration::from_millis(500))?;
        Ok(server)
    }

    /// What `redis-benchmark` reaches, requests a second.
    pub(super) fn benchmark(&self, test: &str, time: Duration) -> io::Result<f64> {
        // About as long as the others: it is told a number of requests, not a time.
        let requests = (time.as_secs_f64() * 100_000.0) as u64;
        let output = Command::new("redis-benchmark")
            .args([
                "-p",
                &self.port.to_string(),
                "-t",
                test,
                "-d",
                &PAGE_SIZE.to_string(),
            ])
            .args([
                "-P",
                &BATCH.to_string(),
                "-n",
                &requests.to_string(),
                "-r",
                &KEYS.to_string(),
                "--csv",
            ])
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let row = text.lines().last().and_then(|line| line.split(',').nth(1));
        let rate = row.and_then(|rate| rate.trim_matches('"').parse().ok());
        rate.ok_or_else(|| io::Error::other(format!("redis-benchmark said: {text}")))
    }

    /// Pages read, a second.
    pub(super) fn read(&self, time: Duration) -> io::Result<f64> {
        self.batches(Verb::Read, time)
    }

    /// Pages written, a second.
    pub(super) fn write(&self, time: Duration) -> io::Result<f64> {
        self.batches(Verb::Write, time)
    }

    fn batches(&self, verb: Verb, time: Duration) -> io::Result<f64> {
        let store = self.store.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let bytes = vec![7; BATCH_BYTES];
        let mut into = vec![0; BATCH_BYTES];
        let (data, into): (&[u8], &mut [u8]) = match verb {
            Verb::Write => (&bytes, &mut []),
            _ => (&[], &mut into),
        };
        let mut tickets = std::collections::VecDeque::new();
        let mut found = Vec::new();
        let (mut next, mut done) = (0, 0);
        let begun = Instant::now();
        let least = KEYS / BATCH;
        while begun.elapsed() < time || done < least || !tickets.is_empty() {
            let until = Instant::now() + PATIENCE;
            let goes_on = begun.elapsed() < time || next < least;
            while goes_on && tickets.len() < DEPTH {
                let first = next * BATCH % KEYS;
                let pages: Vec<Page> = (first..first + BATCH).map(page).collect();
                tickets.push_back(
                    store
                        .start(verb, &pages, data, until)
                        .map_err(io::Error::other)?,
                );
                next += 1;
            }
            if let Some(ticket) = tickets.pop_front() {
                store
                    .finish(ticket, &mut found, into, until)
                    .map_err(io::Error::other)?;
                done += 1;
            }
        }
        Ok((done * BATCH) as f64 / begun.elapsed().as_secs_f64())
    }
}

fn page(number: usize) -> Page {
    Page {
        number: (number as u64).into(),
        version: 1.into(),
        ..Page::default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.store = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.home);
    }
}
