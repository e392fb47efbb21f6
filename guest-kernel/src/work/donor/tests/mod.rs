//! The donor's side of the protocol, on the host's memory, with a unit that copies by hand.

mod histories;
mod serving;

use super::serve::Server;
use super::unit::{Job, Moves, Unit};
use super::*;
use crate::accel::calls::Incoming;
use crate::memory::PAGE_SIZE;
use crate::work::tests::Memory;
use gmem_wire::gmem::Call;
use pager_wire::body::{Amount, Attach, Attached, Range, Statistics};
use pager_wire::list::Start;
use pager_wire::zerocopy::{FromBytes, FromZeros, IntoBytes};
use pager_wire::{Flags, HEADER_LEN, Header, Kind, Page, Status, VERSION};
use std::vec;
use std::vec::Vec;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages on offer.
const PAGES: u64 = 40;
const MEMORY: u64 = 16 << 20;

/// Copies at once.
struct Hand<'a> {
    ram: Extent<'a>,
    /// The next jobs find no room.
    short: bool,
}

impl Unit for Hand<'_> {
    fn submit(&mut self, job: Job) -> Result<(), Fault> {
        match job {
            Job::Copy { .. } if self.short => {}
            Job::Copy { from, to, len } => {
                for at in (0..len).step_by(8) {
                    self.ram.put64(to + at, self.ram.get64(from + at));
                }
            }
            Job::Zero { at, len } => self.ram.clear(at..at + len),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        Ok(!core::mem::take(&mut self.short))
    }
}

/// A donor and those who talk to it.
struct Bench<'a> {
    server: Server<'a, Hand<'a>>,
    now: u64,
}

/// What came back.
struct Reply {
    status: Status,
    head: Vec<u8>,
    data: Vec<u8>,
}

impl Reply {
    fn pages(&self) -> &[Page] {
        <[Page]>::ref_from_bytes(&self.head[size_of::<Start>()..]).unwrap()
    }
}

impl<'a> Bench<'a> {
    fn new(set: &'a WorkingSet) -> Self {
        let place = (set.address(0), set.pages());
        let layout = Layout::new(place, Some(PAGES * PAGE_SIZE), MEMORY).unwrap();
        let ram = Extent::new(set, 0).unwrap();
        ram.clear(layout.lent..layout.lent + layout.lent_bytes());
        let server = Server {
            ram,
            layout,
            moves: Moves::new(Hand { ram, short: false }),
            frames: Frames::new(ram, layout),
            clients: Clients::new([1, 2]),
            incarnation: [9; 16],
            keep: (60, 1000),
            counts: Lending::new(),
        };
        Self { server, now: 0 }
    }

    /// Sends a message as the device writes it.
    fn send(&mut self, connection: u64, header: Header, head: &[u8], data: &[u8]) -> Reply {
        let (ram, layout) = (self.server.ram, self.server.layout);
        let answer_at = layout.calls + 0x1000;
        let at = answer_at + Call::ROOM as u64;
        let header = Header {
            head_len: (head.len() as u32).into(),
            data_len: (data.len() as u32).into(),
            ..header
        };
        let call = Call {
            connection,
            kind: call::MESSAGE,
            len: (HEADER_LEN + head.len()) as u32,
        };
        let bytes = [&call.to_bytes()[..], header.as_bytes(), head].concat();
        ram.put(at, &bytes);
        ram.put(at + Call::DATA_AT as u64, data);
        let incoming = Incoming {
            chain: 0,
            call,
            at,
            answer_at,
        };
        let len = self.server.serve(&incoming, self.now).unwrap() as usize;
        let mut bytes = vec![0; len.next_multiple_of(8)];
        ram.get_words(answer_at, &mut bytes);
        let call = Call::from_bytes(bytes[..Call::SIZE].try_into().unwrap());
        assert_eq!((call.connection, call.kind), (connection, call::MESSAGE));
        let message = &bytes[Call::SIZE..][..call.len as usize];
        let (replied, head) = Header::read_from_prefix(message).unwrap();
        let (kind, status) = replied.check().unwrap();
        assert!(replied.has(Flags::REPLY));
        assert_eq!(kind as u16, header.kind.get());
        assert_eq!(replied.correlation, header.correlation);
        assert_eq!(replied.head_len.get() as usize, head.len());
        let data_len = replied.data_len.get() as usize;
        let data = match data_len {
            0 => Vec::new(),
            _ => bytes[Call::DATA_AT..][..data_len].to_vec(),
        };
        Reply {
            status,
            head: head.to_vec(),
            data,
        }
    }

    fn ask(&mut self, connection: u64, kind: Kind, head: &[u8], data: &[u8]) -> Reply {
        self.send(connection, Header::request(kind, 77), head, data)
    }

    fn attach(&mut self, connection: u64, attach: Attach) -> (Status, Attached) {
        let reply = self.ask(connection, Kind::Attach, attach.as_bytes(), &[]);
        let attached = match reply.head.len() {
            0 => Attached::new_zeroed(),
            _ => Attached::read_from_bytes(&reply.head).unwrap(),
        };
        (reply.status, attached)
    }

    fn write(&mut self, connection: u64, pages: &[(u64, u64, u8)]) -> Status {
        let data: Vec<u8> = pages
            .iter()
            .flat_map(|(.., fill)| vec![*fill; PAGE])
            .collect();
        let listed: Vec<Page> = pages
            .iter()
            .map(|&(number, version, fill)| page(number, version, fill))
            .collect();
        self.ask(connection, Kind::Write, &list(&listed, 0), &data)
            .status
    }

    fn read(&mut self, connection: u64, numbers: &[u64]) -> Reply {
        let listed: Vec<Page> = numbers.iter().map(|&number| page(number, 0, 0)).collect();
        self.ask(connection, Kind::Read, &list(&listed, 0), &[])
    }

    fn close(&mut self, connection: u64) {
        let call = Call {
            connection,
            kind: call::CLOSED,
            len: 0,
        };
        let at = self.server.layout.calls;
        let incoming = Incoming {
            chain: 0,
            call,
            at,
            answer_at: at,
        };
        assert_eq!(self.server.serve(&incoming, self.now), Ok(0));
    }

    /// Nothing is left of anybody.
    fn assert_empty(&self) {
        let Server {
            ram,
            layout,
            frames,
            clients,
            ..
        } = &self.server;
        assert_eq!((frames.free, clients.count()), (layout.frames, 0));
        let lent = layout.lent..layout.lent + layout.lent_bytes();
        assert!(lent.step_by(8).all(|at| ram.get64(at) == 0));
    }
}

fn page(number: u64, version: u64, fill: u8) -> Page {
    Page {
        number: number.into(),
        version: version.into(),
        seal: [fill; 16],
    }
}

fn list(pages: &[Page], writes: u32) -> Vec<u8> {
    let start = Start {
        count: (pages.len() as u32).into(),
        writes: writes.into(),
        ..Start::new_zeroed()
    };
    [start.as_bytes(), pages.as_bytes()].concat()
}

fn who(name: u8, pages: u64) -> Attach {
    Attach {
        oldest: VERSION.into(),
        newest: VERSION.into(),
        client: [name; 16],
        pages: pages.into(),
        ..Attach::new_zeroed()
    }
}

fn set(memory: &Memory) -> WorkingSet {
    memory.set.clone().in_one_piece()
}
