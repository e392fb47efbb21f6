//! A hundred clients of one server, one of them hostile: it wants more than its share, talks nonsense, stops in the middle of a
//! message, connects again and again, and takes no answers. The others notice nothing of it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gmem_core::pager::channel::{Channel, unix};
use gmem_core::pager::client::{AttachError, Client, Options};
use gmem_core::pager::holder::{Holder, HolderError, Verb};
use gmem_core::pager::wire::body::Features;
use gmem_core::pager::wire::{MAX_PAGES, PAGE_LEN, Page};

use super::gmem::TempDir;
use super::support::{Pager, wait_for};

/// Clients that do as they should.
const HONEST: u64 = 99;
/// Pages that each client may have: 1 MiB.
const QUOTA: u64 = 256;
/// An answer that takes longer is none; far more than one takes on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

fn attach(socket: &Path, pages: u64) -> Result<Client, AttachError> {
    let path = PathBuf::from(socket);
    let dial = move || Ok(Arc::new(unix::connect(&path)?) as Arc<dyn Channel>);
    let options = Options {
        pages,
        features: Features::RING,
        token: [0; 32],
        origin: [0; 16],
    };
    Client::attach("crowd".into(), Box::new(dial), options)
}

fn pages(first: u64, count: usize, version: u64) -> Vec<Page> {
    let page = |number: u64| Page {
        number: number.into(),
        version: version.into(),
        ..Page::default()
    };
    (first..first + count as u64).map(page).collect()
}

/// What is in a page of a client: nobody else has the same, and no other version has.
fn content(client: u64, pages: &[Page]) -> Vec<u8> {
    let of = |page: &Page| {
        let word = client << 48 | page.version.get() << 24 | page.number.get();
        let words = (0..PAGE_LEN as u64 / 8).map(move |at| word ^ at << 40);
        words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
    };
    pages.iter().flat_map(of).collect()
}

fn write(client: &Client, pages: &[Page], bytes: &[u8]) -> Result<(), HolderError> {
    let until = Instant::now() + PATIENCE;
    let ticket = client.start(Verb::Write, pages, bytes, until)?;
    client.finish(ticket, &mut Vec::new(), &mut [], until)
}

/// Client number `number` finds what it has written, in all pages.
fn check(client: &Client, number: u64, version: u64) {
    for first in (0..QUOTA).step_by(MAX_PAGES) {
        let pages = pages(first, MAX_PAGES, version);
        let until = Instant::now() + PATIENCE;
        let ticket = client.start(Verb::Read, &pages, &[], until).unwrap();
        let (mut found, mut into) = (Vec::new(), vec![0; MAX_PAGES * PAGE_LEN]);
        client
            .finish(ticket, &mut found, &mut into, until)
            .unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert!(found.iter().all(|page| page.version == version));
        assert!(into == content(number, &pages), "client {number}");
    }
}

/// Writes and reads until `stop`, and at least a few times, then until the server wants to end: takes its pages back and leaves.
fn honest(client: &Client, number: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut version = 0;
    while version < 3 || !stop.load(Ordering::Relaxed) {
        version += 1;
        for first in (0..QUOTA).step_by(MAX_PAGES) {
            let pages = pages(first, MAX_PAGES, version);
            write(client, &pages, &content(number, &pages)).unwrap();
        }
        check(client, number, version);
        // Whoever is honest may still make mistakes: they cost it nothing.
        let beyond = pages(QUOTA, 1, version);
        let refused = write(client, &beyond, &content(number, &beyond));
        assert!(matches!(refused, Err(HolderError::Refused(_))));
        thread::sleep(Duration::from_millis(50));
    }
    done.fetch_add(1, Ordering::Relaxed);
    wait_for("the server says that it ends", || {
        client.tend();
        client.health().draining
    });
    check(client, number, version);
    client.leave();
}

/// A message as docs/pager-protocol.md has it.
fn message(kind: u16, head: &[u8]) -> Vec<u8> {
    let mut bytes = b"GMPG".to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(7_u64.to_le_bytes());
    bytes.extend((head.len() as u32).to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(head);
    bytes
}

/// The head of an attach: version 1, a name, and room for all that is allowed.
fn introduction(name: u8) -> Vec<u8> {
    let mut head = [1_u16.to_le_bytes(), 1_u16.to_le_bytes()].concat();
    head.extend([0; 4]);
    head.extend([name; 16]);
    head.extend([0; 16]);
    head.extend(QUOTA.to_le_bytes());
    head.extend([0; 48]);
    head
}

/// The head of a request for the first 64 pages.
fn list() -> Vec<u8> {
    let mut head = 64_u32.to_le_bytes().to_vec();
    head.extend([0; 12]);
    for number in 0..64_u64 {
        head.extend(number.to_le_bytes());
        head.extend([0; 24]);
    }
    head
}

/// A connection that has been greeted, whoever makes it.
fn greeted(socket: &Path) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    stream.read_exact(&mut [0]).ok()?;
    Some(stream)
}

/// All that a client can do wrong. Returns connections that say nothing more, and stay.
fn hostile(socket: &Path) -> Vec<UnixStream> {
    // More than its quota: when it attaches, and later.
    let refused = attach(socket, QUOTA + 1);
    assert!(matches!(refused, Err(AttachError::Room { .. })));
    wait_for("it is let in with less", || attach(socket, 1).is_ok());
    let client = wait_until_attached(socket);
    let all = pages(0, MAX_PAGES, 1);
    write(&client, &all, &content(0xee, &all)).unwrap();
    for number in [QUOTA, u64::MAX - 64] {
        let beyond = pages(number, MAX_PAGES, 1);
        let refused = write(&client, &beyond, &content(0xee, &all));
        assert!(matches!(refused, Err(HolderError::Refused(_))));
    }
    client.leave();
    // Nonsense, of any length, before it has said who it is and after: the connection ends.
    let mut stay = Vec::new();
    for length in [1, 31, 32, 33, 4096, 100_000] {
        let noise: Vec<u8> = (0..length)
            .map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect();
        for before in [vec![], message(1, &introduction(0xee))] {
            let Some(mut stream) = greeted(socket) else {
                continue;
            };
            // It may be thrown out while it says it.
            let _ = stream.write_all(&[before, noise.clone()].concat());
            match length < 32 {
                // Half a message, and silence.
                true => stay.push(stream),
                false => {
                    let _ = stream.read_to_end(&mut Vec::new());
                }
            }
        }
    }
    // Half of what it says is right, and silence.
    let whole = message(1, &introduction(0xee));
    for part in [4, 16, 32, 100] {
        if let Some(mut stream) = greeted(socket) {
            let _ = stream.write_all(&whole[..part]);
            stay.push(stream);
        }
    }
    // Many connections: some end at once, others never say a word.
    for storm in 0..400 {
        if let Ok(stream) = UnixStream::connect(socket)
            && storm % 3 == 0
        {
            stay.push(stream);
        }
    }
    // Those who do not even say who they are do not keep anybody out for ever, and the next one takes no answers.
    let mut deaf = wait_until_let_in(socket);
    let request = message(4, &list());
    while deaf.write_all(&request).is_ok() {}
    stay.push(deaf);
    stay
}

/// A connection of a client that has attached without our client's code.
fn wait_until_let_in(socket: &Path) -> UnixStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(mut stream) = greeted(socket) {
            let mut reply = [0; 32 + 72];
            let asked = stream.write_all(&message(1, &introduction(0xdd)));
            let answered = asked.and_then(|()| stream.read_exact(&mut reply));
            // Status 0: it is in.
            if answered.is_ok() && reply[28..30] == [0, 0] {
                return stream;
            }
        }
        assert!(Instant::now() < deadline, "nobody is let in any more");
        thread::sleep(Duration::from_millis(50));
    }
}

fn wait_until_attached(socket: &Path) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attach(socket, QUOTA) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn ninety_nine_clients_notice_nothing_of_a_hostile_one() {
    let dir = TempDir::new();
    let socket = dir.path().join("p.sock");
    let listen = format!("unix:{}", socket.display());
    let args = [
        "--listen",
        &listen,
        "--lend",
        "ram:100M",
        "--quota",
        "1M",
        "--clients",
        "100",
        "--keep",
        "1",
    ];
    let pager = Pager::start(&args, 1);
    let clients: Vec<Client> = (0..HONEST)
        .map(|_| attach(&socket, QUOTA).unwrap())
        .collect();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for (client, number) in clients.iter().zip(1..) {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || honest(client, number, stop, done));
        }
        let stay = hostile(&socket);
        // Whoever comes later finds its place, when the hostile one has lost its own.
        let newcomer = wait_until_attached(&socket);
        let all = pages(0, MAX_PAGES, 1);
        write(&newcomer, &all, &content(100, &all)).unwrap();
        newcomer.leave();
        stop.store(true, Ordering::Relaxed);
        wait_for("all have written for the last time", || {
            done.load(Ordering::Relaxed) == HONEST
        });
        // Those who say nothing are there until the end.
        pager.signal(libc::SIGTERM);
        let (code, said) = pager.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("0 clients left, with 0 pages"), "{said}");
        drop(stay);
    });
}
