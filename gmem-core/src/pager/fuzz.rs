//! What a peer may send: anything. For the fuzzer, and for tests.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pager_wire::body::Attached;
use pager_wire::{Flags, Header, Kind, PAGE_LEN, Page, VERSION};
use zerocopy::{FromZeros, IntoBytes};

use super::channel::Channel;
use super::channel::stream::{Stream, StreamChannel};
use super::client::{Client, Options};
use super::holder::{Holder, Verb};
use super::server::{Config, Server};
use crate::hnode::hbm::Hbm;
use crate::hnode::link::Link;

/// A peer that says what it says, and then goes.
struct Script(Mutex<(Vec<u8>, usize)>);

impl Script {
    fn channel(bytes: Vec<u8>) -> Arc<dyn Channel> {
        Arc::new(StreamChannel::new(Self(Mutex::new((bytes, 0))), None))
    }
}

impl Stream for Script {
    fn read(&self, into: &mut [u8], _until: Option<Instant>) -> io::Result<Option<usize>> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, at) = &mut *script;
        let count = into.len().min(bytes.len() - *at);
        into[..count].copy_from_slice(&bytes[*at..][..count]);
        *at += count;
        Ok(Some(count))
    }

    fn write(&self, _parts: [&[u8]; 3]) -> io::Result<()> {
        Ok(())
    }

    fn shut(&self) {}
}

const PAGES: u64 = 32;

/// A client's bytes reach a server: it ends the connection, holds no more than it was allowed to, and is there for others. If the first
/// byte is odd an attach comes first.
pub fn server(bytes: &[u8]) {
    let ram = Hbm::new("ram", PAGES * PAGE_LEN as u64, Link::new(0.0, 0.0)).expect("memory");
    let config = Config {
        quota_pages: PAGES / 2,
        clients: 2,
        credits: 4,
        keep: Duration::ZERO,
        token: [0; 32],
        origin: None,
    };
    let server = Server::new(config, vec![Box::new(ram)]).expect("random numbers");
    let mut script = Vec::new();
    if bytes.first().is_some_and(|byte| byte & 1 == 1) {
        let attach = pager_wire::body::Attach {
            oldest: VERSION.into(),
            newest: VERSION.into(),
            pages: (PAGES / 2).into(),
            ..FromZeros::new_zeroed()
        };
        script.extend_from_slice(
            message(Header::request(Kind::Attach, 0), attach.as_bytes(), 0).as_slice(),
        );
    }
    script.extend_from_slice(bytes.get(1..).unwrap_or_default());
    server.serve(Script::channel(script));
    let summary = server.summary();
    assert!(summary.promised_pages <= PAGES / 2 && summary.stored_pages <= summary.promised_pages);
    assert_eq!(summary.lent[0].1.pages, summary.stored_pages);
    server.forget_lost();
    assert_eq!(
        server.summary().lent[0].1.pages,
        0,
        "who has gone is forgotten, with all that it had"
    );
}

/// A server's bytes reach a client that has attached and waits for a page: it gets an answer or an error.
pub fn client(bytes: &[u8]) {
    let attached = Attached {
        version: VERSION.into(),
        credits: 2.into(),
        pages: PAGES.into(),
        ..FromZeros::new_zeroed()
    };
    let header = Header {
        flags: Flags::REPLY.into(),
        ..Header::request(Kind::Attach, 0)
    };
    let mut script = message(header, attached.as_bytes(), 0);
    script.extend_from_slice(bytes);
    let script = Mutex::new(Some(script));
    let dial = move || {
        let once = script.lock().unwrap_or_else(PoisonError::into_inner).take();
        once.map(Script::channel)
            .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    };
    let options = Options {
        pages: PAGES,
        features: 0,
        token: [0; 32],
        origin: [0; 16],
    };
    let Ok(client) = Client::attach("script".into(), Box::new(dial), options) else {
        return;
    };
    let until = Instant::now() + Duration::from_secs(5);
    let page = Page {
        number: 3.into(),
        version: 1.into(),
        ..Page::new_zeroed()
    };
    let written = client.start(Verb::Write, &[page], &[1; PAGE_LEN], until);
    let mut into = vec![0; 2 * PAGE_LEN];
    let mut found = Vec::new();
    if let Ok(ticket) = client.start(Verb::Read, &[page, page], &[], until)
        && client.finish(ticket, &mut found, &mut into, until).is_ok()
    {
        assert_eq!(found.len(), 2);
    }
    client.tend();
    if let Ok(ticket) = written {
        client.ended(&ticket);
    }
}

/// A message as it goes over a stream.
fn message(header: Header, head: &[u8], data: u32) -> Vec<u8> {
    let header = Header {
        head_len: (head.len() as u32).into(),
        data_len: data.into(),
        ..header
    };
    [header.as_bytes(), head].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Headers that are nearly right get further than noise.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let one = (
            0..16_u16,
            0..8_u16,
            0..4_u64,
            0..3_u32,
            prop::collection::vec(any::<u8>(), 0..200),
            any::<bool>(),
        );
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let mut bytes = vec![1];
            for (kind, flags, correlation, pages, head, listed) in all {
                let header = Header {
                    kind: kind.into(),
                    flags: flags.into(),
                    ..Header::request(Kind::Ping, correlation)
                };
                let mut head = head;
                if listed {
                    let page = Page {
                        number: (head.len() as u64).into(),
                        version: 1.into(),
                        ..Page::new_zeroed()
                    };
                    head = [
                        &[pages as u8, 0, 0, 0][..],
                        &[0; 12],
                        vec![page; pages as usize].as_bytes(),
                    ]
                    .concat();
                }
                bytes.extend(message(header, &head, pages * PAGE_LEN as u32));
                bytes.resize(bytes.len() + pages as usize * PAGE_LEN, kind as u8);
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn a_server_survives_any_client(bytes in messages()) {
            server(&bytes);
        }

        #[test]
        fn a_client_survives_any_server(bytes in messages()) {
            client(&bytes[1..]);
        }

        #[test]
        fn both_survive_noise(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            server(&bytes);
            client(&bytes);
        }
    }
}
