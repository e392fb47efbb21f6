//! A vsock, its driver, and the host's programs.

use std::io::{ErrorKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm_sys_util::tempdir::TempDir;

use super::connection::BUFFER;
use super::request::{HEADER_SIZE, Header, STREAM, op};
use super::*;
use crate::virtio::Device;
use crate::virtio::testing::{Bench, Part, Sent};

mod closing;
mod connecting;
mod credit;
mod hostile;

const RECEIVE: usize = 0;
const SEND: usize = 1;
const EVENT: usize = 2;

const CID: u64 = 7;
/// The guest's room for each connection, unless a test says otherwise.
const ROOM: u32 = 1 << 20;

/// A guest that keeps a few buffers in its receive queue.
struct Guest {
    bench: Bench<Vsock>,
    buffers: Vec<Sent>,
    uds: PathBuf,
    _folder: TempDir,
}

impl Guest {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let uds = folder.as_path().join("v.sock");
        let mut guest = Self {
            bench: Bench::started(Vsock::new(CID, &uds).unwrap()),
            buffers: Vec::new(),
            uds,
            _folder: folder,
        };
        guest.add_buffers(8);
        guest
    }

    /// A program of the host that listens to its `port`.
    fn listen(&self, port: u32) -> UnixListener {
        let listener = UnixListener::bind(beside(&self.uds, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    fn add_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let sent = self
                .bench
                .send(RECEIVE, &[Part::In(HEADER_SIZE as u32), Part::In(4096)]);
            self.buffers.push(sent);
        }
        self.bench.notify(RECEIVE).unwrap();
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        let header = header.encode().unwrap().into();
        let parts = [Part::Out(header), Part::Out(payload.into())];
        let parts = if payload.is_empty() {
            &parts[..1]
        } else {
            &parts
        };
        self.bench.send(SEND, parts);
        self.bench.notify(SEND).unwrap();
        assert_eq!(self.bench.used(SEND).len(), 1);
    }

    /// What has come since the last call. The guest gives each buffer back at once.
    fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        let used = self.bench.used(RECEIVE);
        let packets: Vec<_> = used
            .iter()
            .map(|used| {
                let at = self.buffers.iter().position(|sent| sent.head == used.head);
                let sent = self.buffers.remove(at.unwrap());
                let header = self.bench.part(&sent, 0).try_into().unwrap();
                let header = Header::decode(&header).unwrap();
                assert_eq!(used.written, HEADER_SIZE as u32 + header.len);
                let payload = self.bench.part(&sent, 1)[..header.len as usize].to_vec();
                (header, payload)
            })
            .collect();
        self.add_buffers(packets.len());
        packets
    }

    /// Serves until something has come.
    fn wait(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        for _ in 0..200 {
            packets.extend(self.received());
            if !packets.is_empty() {
                return packets;
            }
            self.bench.serve_sources(Duration::from_millis(50)).unwrap();
        }
        panic!("nothing came for the guest");
    }

    /// Serves until a packet with `op` has come.
    fn wait_for(&mut self, op: u16) -> Header {
        for _ in 0..200 {
            if let Some((header, _)) = self.wait().iter().find(|(header, _)| header.op == op) {
                return *header;
            }
        }
        panic!("no packet with op {op} came");
    }

    /// Serves what is ready, without waiting.
    fn serve(&mut self) {
        for _ in 0..4 {
            self.bench.serve_sources(Duration::ZERO).unwrap();
        }
    }

    fn metric(&self, name: &str) -> u64 {
        self.bench.device.metrics()[name].as_u64().unwrap()
    }

    /// A connection of the guest's port 1000 to the host's port 52, with the host's end.
    fn connected(&mut self) -> UnixStream {
        let listener = self.listen(52);
        self.send(packet(op::REQUEST), &[]);
        let (stream, _) = listener.accept().unwrap();
        assert_eq!(self.wait()[0].0.op, op::RESPONSE);
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

fn beside(uds: &Path, port: u32) -> PathBuf {
    format!("{}_{port}", uds.display()).into()
}

/// A packet from the guest's port 1000 to the host's port 52.
fn packet(op: u16) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: 1000,
        dst_port: 52,
        kind: STREAM,
        op,
        buf_alloc: ROOM,
        ..Header::default()
    }
}

fn data(payload: &[u8]) -> Header {
    Header {
        len: payload.len() as u32,
        ..packet(op::RW)
    }
}

/// All that can be read from `stream` now.
fn drain(mut stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return all,
            Ok(len) => all.extend(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_at_its_end(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
}
