//! A remote tier over servers in this process: that answer, die, restart, forget and lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pager_wire::PAGE_LEN;

use super::*;
use crate::hnode::Hnode;
use crate::hnode::hbm::Hbm;
use crate::hnode::link::Link;
use crate::page::Unit;
use crate::pager::channel::local::pair;
use crate::pager::channel::{Channel, ChannelError, Received};
use crate::pager::client::{self, Client};
use crate::pager::server::{Config, Server};

const PAGES: u64 = 1024;

/// A place where a server is, or is not.
#[derive(Default)]
struct Place {
    server: Mutex<Option<Arc<Server>>>,
    channels: Mutex<Vec<Arc<dyn Channel>>>,
    /// What it gives back is not what it was given.
    lies: AtomicBool,
    /// It answers nothing.
    stalls: AtomicBool,
}

impl Place {
    fn new() -> Arc<Self> {
        let place = Arc::<Self>::default();
        place.start();
        place
    }

    /// A new server, which knows nothing.
    fn start(&self) {
        let ram = Hbm::new("ram", 2 * PAGES * PAGE_LEN as u64, Link::new(0.0, 0.0)).unwrap();
        let config = Config {
            quota_pages: PAGES,
            clients: 4,
            credits: 8,
            keep: Duration::from_secs(60),
            token: [0; 32],
            origin: None,
        };
        *self.server.lock().unwrap() =
            Some(Arc::new(Server::new(config, vec![Box::new(ram)]).unwrap()));
    }

    /// The server is gone, without a word.
    fn kill(&self) {
        *self.server.lock().unwrap() = None;
        self.cut();
    }

    /// All connections break.
    fn cut(&self) {
        self.channels
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|it| it.close());
    }

    fn server(&self) -> Arc<Server> {
        Arc::clone(self.server.lock().unwrap().as_ref().unwrap())
    }

    fn holder(self: &Arc<Self>) -> Arc<dyn Holder> {
        let place = Arc::clone(self);
        let dial = move || {
            let server = place.server.lock().unwrap().clone();
            let server = server.ok_or(std::io::ErrorKind::ConnectionRefused)?;
            let (near, far) = pair();
            let far: Arc<dyn Channel> = Arc::new(Unreliable(far, Arc::clone(&place)));
            place.channels.lock().unwrap().push(Arc::clone(&far));
            thread::spawn(move || server.serve(far));
            Ok(Arc::new(near) as Arc<dyn Channel>)
        };
        let options = client::Options {
            pages: PAGES,
            features: 0,
            token: [0; 32],
            origin: [0; 16],
        };
        Arc::new(Client::attach("somewhere".into(), Box::new(dial), options).unwrap())
    }
}

/// The server's end of a channel, whose server may lie or stall.
struct Unreliable(crate::pager::channel::local::Local, Arc<Place>);

impl Channel for Unreliable {
    fn send(
        &self,
        header: pager_wire::Header,
        head: &[u8],
        data: &[u8],
    ) -> Result<(), ChannelError> {
        if self.1.stalls.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut data = data.to_vec();
        if self.1.lies.load(Ordering::Relaxed) {
            data.iter_mut()
                .step_by(PAGE_LEN)
                .for_each(|byte| *byte ^= 1);
        }
        self.0.send(header, head, &data)
    }

    fn receive(
        &self,
        until: Option<Instant>,
        head: &mut Vec<u8>,
    ) -> Result<Option<Received>, ChannelError> {
        self.0.receive(until, head)
    }

    fn receive_data(&self, into: &mut [u8]) -> Result<(), ChannelError> {
        self.0.receive_data(into)
    }

    fn close(&self) {
        self.0.close();
    }
}

fn remote(places: &[&Arc<Place>], deadline_ms: u64, on_failure: OnFailure) -> Remote {
    let options = Options {
        encrypted: places.len() > 1,
        deadline: Duration::from_millis(deadline_ms),
        on_failure,
    };
    let holders = places.iter().map(|place| place.holder()).collect();
    Remote::new("remote", PAGES * PAGE_LEN as u64, holders, options).unwrap()
}

fn bytes(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(PAGE_LEN / 8)
}

fn store(tier: &Remote, values: std::ops::Range<u64>) -> Vec<Frame> {
    let all: Vec<u8> = values.flat_map(bytes).collect();
    let mut frames = Vec::new();
    let stored = tier
        .store_pages(&all, &mut |_, frame| frames.push(frame))
        .unwrap();
    assert_eq!(stored * PAGE_LEN, all.len());
    frames
}

#[track_caller]
fn check(tier: &Remote, frames: &[Frame], values: std::ops::Range<u64>) {
    let mut into = vec![0; frames.len() * PAGE_LEN];
    tier.load_pages(frames, &mut into).unwrap();
    for (page, value) in into.chunks_exact(PAGE_LEN).zip(values) {
        assert_eq!(page, bytes(value), "page {value}");
    }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_stored_comes_back_from_here_and_from_there() {
    let place = Place::new();
    let tier = remote(&[&place], 5000, OnFailure::Fail);
    let frames = store(&tier, 0..200);
    check(&tier, &frames, 0..200);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    check(&tier, &frames, 0..200);
    assert_eq!(place.server().summary().stored_pages, 200);
    assert_eq!(tier.usage().pages, 200);
    let block = tier.store(&bytes(7).repeat(512)).unwrap();
    let mut into = vec![0; 512 * PAGE_LEN];
    until("the block has arrived", || {
        tier.shared.flight().pages() == 0
    });
    tier.load(block, &mut into).unwrap();
    assert_eq!(into, bytes(7).repeat(512));
    tier.free(block, Unit::Block);
    frames
        .iter()
        .for_each(|frame| tier.free(*frame, Unit::Page));
    until("all is forgotten", || {
        place.server().summary().stored_pages == 0
    });
    drop(tier);
    until("it has left", || place.server().summary().clients == 0);
}

#[test]
fn pages_that_were_announced_come_and_are_what_they_are_by_then() {
    let place = Place::new();
    let tier = remote(&[&place], 5000, OnFailure::Fail);
    let frames = store(&tier, 0..128);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    tier.announce(&frames);
    // One is another page when it is wanted.
    tier.free(frames[9], Unit::Page);
    let again = store(&tier, 1000..1001);
    assert_eq!(again[0], frames[9]);
    check(&tier, &frames[..9], 0..9);
    check(&tier, &again, 1000..1001);
    check(&tier, &frames[10..], 10..128);
    // More than may be ahead: the first ones are given up, and come all the same.
    for _ in 0..20 {
        tier.announce(&frames[10..74]);
        tier.announce(&frames[74..]);
        check(&tier, &frames[10..11], 10..11);
    }
    check(&tier, &frames[10..], 10..128);
}

#[test]
fn a_connection_that_breaks_is_made_again_and_loses_nothing() {
    let place = Place::new();
    let tier = remote(&[&place], 5000, OnFailure::Fail);
    for round in 0..10 {
        let frames = store(&tier, round * 50..round * 50 + 50);
        place.cut();
        check(&tier, &frames, round * 50..round * 50 + 50);
    }
    assert_eq!(tier.troubles().lives.load(Ordering::Relaxed), 0);
}

#[test]
fn a_holder_that_has_forgotten_everything_is_not_believed() {
    let place = Place::new();
    let tier = remote(&[&place], 300, OnFailure::Wait);
    let frames = store(&tier, 0..10);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    place.kill();
    place.start();
    let mut into = bytes(0);
    let lost = tier.load(frames[3], &mut into).unwrap_err();
    assert!(
        lost.to_string().contains("no holder has it any more"),
        "{lost}"
    );
    // New pages are kept there.
    let frames = store(&tier, 20..30);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    check(&tier, &frames, 20..30);
}

#[test]
fn lies_and_old_pages_are_refused() {
    let (place, other) = (Place::new(), Place::new());
    let tier = remote(&[&place], 200, OnFailure::Fail);
    let frames = store(&tier, 0..4);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    place.lies.store(true, Ordering::Relaxed);
    let refused = tier.load(frames[0], &mut bytes(0)).unwrap_err();
    assert!(refused.to_string().contains("another page"), "{refused}");
    place.lies.store(false, Ordering::Relaxed);
    check(&tier, &frames, 0..4);
    // With a mirror that tells the truth nobody notices.
    let tier = remote(&[&place, &other], 2000, OnFailure::Fail);
    let frames = store(&tier, 0..100);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    place.lies.store(true, Ordering::Relaxed);
    check(&tier, &frames, 0..100);
    assert!(tier.troubles().refused_pages.load(Ordering::Relaxed) >= 100);
}

#[test]
fn one_that_stalls_is_waited_for_as_long_as_was_said() {
    let place = Place::new();
    let tier = remote(&[&place], 200, OnFailure::Fail);
    let frames = store(&tier, 0..4);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    place.stalls.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    let late = tier.load(frames[0], &mut bytes(0)).unwrap_err();
    assert!(late.to_string().contains("no answer in time"), "{late}");
    assert!((200..2000).contains(&begun.elapsed().as_millis()));
    place.stalls.store(false, Ordering::Relaxed);
    place.cut();
    check(&tier, &frames, 0..4);
}

#[test]
fn who_waits_is_served_when_the_holder_is_back() {
    let place = Place::new();
    let tier = remote(&[&place], 100, OnFailure::Wait);
    let frames = store(&tier, 0..64);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    let server = place.server();
    place.kill();
    thread::scope(|scope| {
        let waits = scope.spawn(|| check(&tier, &frames, 0..64));
        thread::sleep(Duration::from_millis(400));
        assert!(!waits.is_finished());
        *place.server.lock().unwrap() = Some(server);
        waits.join().unwrap();
    });
}

#[test]
fn mirrored_pages_survive_each_holder_in_turn() {
    let places = [Place::new(), Place::new()];
    let tier = remote(&[&places[0], &places[1]], 5000, OnFailure::Fail);
    let mut frames = store(&tier, 0..300);
    for round in 0..6 {
        places[round % 2].kill();
        check(&tier, &frames, 0..300);
        let first = round * 10;
        for frame in &frames[first..first + 10] {
            tier.free(*frame, Unit::Page);
        }
        let again = store(&tier, first as u64..first as u64 + 10);
        frames.splice(first..first + 10, again);
        places[round % 2].start();
        // The one that is back has everything again before the other one goes.
        until("both have all", || {
            let all = frames
                .iter()
                .all(|frame| tier.shared.marks.get(frame.0).holders == 3);
            all && tier.shared.flight().pages() == 0
        });
        // Which it says itself.
        until("it knows that", || {
            tier.peers()
                .is_some_and(|it| it.whole && it.lives == round as u64 + 1)
        });
    }
    check(&tier, &frames, 0..300);
    assert!(tier.troubles().mirrored_again.load(Ordering::Relaxed) >= 1500);
}

#[test]
fn while_nobody_takes_pages_some_are_kept_and_then_refused_and_none_is_lost() {
    let place = Place::new();
    let tier = remote(&[&place], 300, OnFailure::Wait);
    let server = place.server();
    place.kill();
    let mut stored: Vec<(Frame, u64)> = Vec::new();
    let mut value = 0;
    let refused = loop {
        let mut frames = Vec::new();
        match tier.store_pages(&bytes(value).repeat(8), &mut |_, frame| frames.push(frame)) {
            Ok(_) => stored.extend(frames.into_iter().map(|frame| (frame, value))),
            Err(error) => break error,
        }
        value += 1;
    };
    assert!(matches!(refused, StoreError::Io(_)), "{refused}");
    assert_eq!(tier.free_pages(), 0, "nothing is to be stored there now");
    assert_eq!(stored.len(), FLIGHT);
    for (frame, value) in &stored {
        let mut into = bytes(0);
        tier.load(*frame, &mut into).unwrap();
        assert_eq!(into, bytes(*value));
    }
    *place.server.lock().unwrap() = Some(server);
    until("all has arrived", || tier.shared.flight().pages() == 0);
    for (frame, value) in &stored {
        let mut into = bytes(0);
        tier.load(*frame, &mut into).unwrap();
        assert_eq!(into, bytes(*value));
    }
}

mod histories;
