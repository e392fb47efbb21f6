//! The donor's side of the protocol, on the host's memory, with a unit that copies by hand.

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
use proptest::prelude::*;
use std::collections::BTreeMap;
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

#[test]
fn pages_come_back_as_they_went_and_those_that_are_not_there_as_zeros() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    let (status, attached) = bench.attach(5, who(1, 20));
    assert_eq!((status, attached.pages.get()), (Status::Ok, 20));
    assert_eq!((attached.keep_s.get(), attached.slots.get()), (60, 0));
    assert_eq!(
        bench.write(5, &[(3, 1, 0xa3), (4, 2, 0xa4), (19, 3, 0xbf)]),
        Status::Ok
    );
    let reply = bench.read(5, &[19, 7, 3, 4]);
    assert_eq!(reply.status, Status::Ok);
    let found: Vec<_> = reply
        .pages()
        .iter()
        .map(|it| (it.number.get(), it.version.get(), it.seal[0]))
        .collect();
    assert_eq!(
        found,
        [(19, 3, 0xbf), (7, 0, 0), (3, 1, 0xa3), (4, 2, 0xa4)]
    );
    for (bytes, fill) in reply.data.chunks(PAGE).zip([0xbf, 0, 0xa3, 0xa4]) {
        assert!(bytes.iter().all(|byte| *byte == fill));
    }
    // A retry that arrives late changes nothing; nor does what is beyond its room.
    assert_eq!(bench.write(5, &[(4, 1, 0x11)]), Status::Ok);
    assert_eq!(
        bench.write(5, &[(3, 9, 0x11), (20, 9, 0x11)]),
        Status::Quota
    );
    assert_eq!(bench.write(5, &[(3, 0, 0x11)]), Status::Quota);
    assert_eq!(bench.read(5, &[3, 4]).data[PAGE], 0xa4);
    // Half of an exchange is written, the rest is read.
    let both = [page(3, 8, 0xc3), page(4, 0, 0)];
    let reply = bench.ask(5, Kind::Exchange, &list(&both, 1), &[0xc3; PAGE]);
    assert_eq!((reply.pages()[0].number.get(), reply.data[0]), (4, 0xa4));
    let reply = bench.ask(
        5,
        Kind::Free,
        &list(&[page(3, 7, 0), page(4, 2, 0)], 0),
        &[],
    );
    assert_eq!(reply.status, Status::Ok);
    let reply = bench.read(5, &[3, 4]);
    assert_eq!((reply.data[0], reply.data[PAGE]), (0xc3, 0));
    let reply = bench.ask(5, Kind::Statistics, &[], &[]);
    let statistics = Statistics::read_from_bytes(&reply.head).unwrap();
    assert_eq!(
        (statistics.stored.get(), statistics.capacity.get()),
        (2, PAGES)
    );
    assert_eq!(bench.ask(5, Kind::Ping, &[], &[]).status, Status::Ok);
    assert_eq!(bench.ask(5, Kind::Detach, &[], &[]).status, Status::Ok);
    bench.assert_empty();
}

#[test]
fn nobody_gets_at_what_is_anothers() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    assert_eq!(bench.ask(5, Kind::Ping, &[], &[]).status, Status::Denied);
    let (_, first) = bench.attach(5, who(1, 10));
    bench.write(5, &[(0, 1, 0xaa)]);
    let (status, second) = bench.attach(6, who(2, 10));
    assert_eq!(status, Status::Ok);
    assert_ne!(first.ticket, second.ticket);
    assert_eq!(bench.read(6, &[0]).data[0], 0);
    // Its name is not enough; with the ticket it is the same, and the older connection is a stranger's.
    assert_eq!(bench.attach(7, who(1, 10)).0, Status::Denied);
    let known = Attach {
        ticket: first.ticket,
        ..who(1, 10)
    };
    let (status, again) = bench.attach(8, known);
    assert_eq!(
        (status, again.ticket, again.incarnation),
        (Status::Ok, first.ticket, first.incarnation)
    );
    assert_eq!(bench.read(8, &[0]).data[0], 0xaa);
    assert_eq!(bench.read(5, &[0]).status, Status::Denied);
    for (wrong, status) in [
        (
            Attach {
                token: [1; 32],
                ..who(3, 1)
            },
            Status::Denied,
        ),
        (
            Attach {
                origin: [9; 16],
                ..who(3, 1)
            },
            Status::Cycle,
        ),
        (
            Attach {
                oldest: 2.into(),
                newest: 3.into(),
                ..who(3, 1)
            },
            Status::Version,
        ),
    ] {
        assert_eq!(bench.attach(9, wrong).0, status);
    }
    // Attached once is enough.
    assert_eq!(bench.attach(8, known).0, Status::BadRequest);
}

#[test]
fn more_than_there_is_is_promised_to_nobody() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    assert_eq!(bench.attach(1, who(1, PAGES - 10)).0, Status::Ok);
    let (status, attached) = bench.attach(2, who(2, 11));
    assert_eq!((status, attached.pages.get()), (Status::Quota, 0));
    let mut allocate = |connection, pages: u64| {
        let amount = Amount {
            pages: pages.into(),
        };
        let reply = bench.ask(connection, Kind::Allocate, amount.as_bytes(), &[]);
        (
            reply.status,
            Amount::read_from_bytes(&reply.head).unwrap().pages.get(),
        )
    };
    assert_eq!(allocate(2, 10), (Status::Ok, 10));
    assert_eq!(allocate(2, u64::MAX), (Status::Quota, 10));
    assert_eq!(allocate(1, 5), (Status::Ok, 5));
    assert_eq!(allocate(2, PAGES - 5), (Status::Ok, PAGES - 5));
    for name in 3..=CLIENTS as u8 {
        assert_eq!(bench.attach(name.into(), who(name, 0)).0, Status::Ok);
    }
    assert_eq!(bench.attach(99, who(99, 0)).0, Status::Busy);
}

#[test]
fn a_full_client_writes_all_its_pages_anew() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    bench.attach(1, who(1, PAGES));
    for version in 1..4 {
        let all: Vec<_> = (0..PAGES)
            .map(|number| (number, version, version as u8))
            .collect();
        assert_eq!(bench.write(1, &all), Status::Ok);
    }
    let range = Range {
        first: 8.into(),
        count: u64::MAX.into(),
    };
    bench.ask(1, Kind::Invalidate, range.as_bytes(), &[]);
    let reply = bench.read(1, &[7, 8]);
    assert_eq!((reply.data[0], reply.data[PAGE]), (3, 0));
    bench.ask(1, Kind::Detach, &[], &[]);
    bench.assert_empty();
}

#[test]
fn an_accelerator_without_room_changes_nothing() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    bench.attach(1, who(1, 8));
    bench.write(1, &[(0, 1, 0x11)]);
    bench.server.moves.unit.short = true;
    assert_eq!(
        bench.write(1, &[(0, 2, 0x22), (1, 3, 0x33)]),
        Status::NoRoom
    );
    let reply = bench.read(1, &[0, 1]);
    assert_eq!((reply.data[0], reply.data[PAGE]), (0x11, 0));
    bench.server.moves.unit.short = true;
    assert_eq!(bench.read(1, &[0]).status, Status::NoRoom);
    bench.ask(1, Kind::Detach, &[], &[]);
    bench.assert_empty();
}

#[test]
fn who_has_gone_is_kept_for_a_while() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    let (_, attached) = bench.attach(1, who(1, 8));
    bench.write(1, &[(0, 1, 0x11)]);
    bench.close(1);
    bench.now = 900;
    bench.server.forget_lost(bench.now).unwrap();
    let known = Attach {
        ticket: attached.ticket,
        ..who(1, 8)
    };
    assert_eq!(bench.attach(2, known).1.ticket, attached.ticket);
    assert_eq!(bench.read(2, &[0]).data[0], 0x11);
    // A connection that ends late takes nothing from the next.
    bench.close(1);
    bench.now = 5000;
    bench.server.forget_lost(bench.now).unwrap();
    assert_eq!(bench.read(2, &[0]).data[0], 0x11);
    bench.close(2);
    bench.now = 7000;
    bench.server.forget_lost(bench.now).unwrap();
    bench.assert_empty();
}

#[test]
fn messages_that_break_the_protocol_are_refused() {
    let memory = Memory::new();
    let set = set(&memory);
    let mut bench = Bench::new(&set);
    bench.attach(1, who(1, 8));
    let one = [page(0, 1, 1)];
    let cases: [(Kind, Vec<u8>, usize); 9] = [
        (Kind::Write, list(&one, 0), 0),
        (Kind::Read, list(&one, 0), 1),
        (Kind::Read, list(&one, 1), 0),
        (Kind::Read, list(&one, 0)[..40].to_vec(), 0),
        (Kind::Exchange, list(&one, 2), 2),
        (Kind::Allocate, vec![0; 16], 0),
        (Kind::Attach, who(1, 1).as_bytes().to_vec(), 0),
        (Kind::Drain, vec![0; 8], 0),
        (Kind::Pressure, vec![0; 8], 0),
    ];
    for (kind, head, pages) in cases {
        let reply = bench.ask(1, kind, &head, &vec![1; pages * PAGE]);
        assert_eq!(reply.status, Status::BadRequest, "{kind:?}");
    }
    let ring = Header {
        flags: Flags::RING.into(),
        ..Header::request(Kind::Read, 1)
    };
    let (ram, layout) = (bench.server.ram, bench.server.layout);
    let reply = bench.send(
        1,
        Header {
            flags: 0.into(),
            ..ring
        },
        &list(&one, 0),
        &[],
    );
    assert_eq!(reply.status, Status::Ok);
    assert_eq!(ram.get64(layout.frame(0)), 0);
}

#[test]
fn a_layout_fits_or_says_what_is_missing() {
    let least = |size: u64, memory: u64| Layout::new((2 << 20, 1 << 15), Some(size), memory);
    let layout = least(16 << 20, 64 << 20).unwrap();
    assert_eq!((layout.pages, layout.frames), (4096, 4096 + 64));
    assert!(layout.records >= layout.frame(layout.frames));
    assert!(layout.end <= (2 << 20) + (1 << 15) * PAGE_SIZE);
    assert!(matches!(
        least(u64::MAX, 64 << 20),
        Err(PlanError::TooSmall { .. })
    ));
    assert!(matches!(
        least(127 << 20, 1 << 30),
        Err(PlanError::TooSmall { .. })
    ));
    assert!(matches!(
        least(16 << 20, 16 << 20),
        Err(PlanError::Lent { .. })
    ));
    // Nobody says how much: as much as both have.
    let most = |memory| Layout::new((2 << 20, 1 << 15), None, memory).unwrap().pages;
    assert_eq!(most(64 << 20), (60 << 20) / PAGE_SIZE - 64);
    let pages = most(1 << 40);
    assert!(least(pages * PAGE_SIZE, 1 << 40).is_ok());
    assert!(least((pages + 128) * PAGE_SIZE, 1 << 40).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, Vec<(u64, u64, u8)>),
    Read(u8, Vec<u64>),
    Free(u8, u64, u64),
    Invalidate(u8, u64, u64),
    Allocate(u8, u64),
    Detach(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let number = || 0..PAGES + 2;
    let one = (number(), 1..6u64, 1..=255u8);
    prop_oneof![
        4 => (0..2u8, prop::collection::vec(one, 1..9)).prop_map(|(who, pages)| Step::Write(who, pages)),
        3 => (0..2u8, prop::collection::vec(number(), 1..9)).prop_map(|(who, pages)| Step::Read(who, pages)),
        2 => (0..2u8, number(), 0..6u64).prop_map(|(who, number, version)| Step::Free(who, number, version)),
        1 => (0..2u8, number(), 0..9u64).prop_map(|(who, first, count)| Step::Invalidate(who, first, count)),
        1 => (0..2u8, number()).prop_map(|(who, pages)| Step::Allocate(who, pages)),
        1 => (0..2u8).prop_map(Step::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]

    #[test]
    fn random_histories_are_those_of_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let memory = Memory::new();
        let set = set(&memory);
        let mut bench = Bench::new(&set);
        let mut models: [(u64, BTreeMap<u64, (u64, u8)>); 2] = Default::default();
        for step in steps {
            let who_asks = match &step {
                Step::Write(who, _) | Step::Read(who, _) | Step::Free(who, ..) => *who,
                Step::Invalidate(who, ..) | Step::Allocate(who, _) | Step::Detach(who) => *who,
            };
            let connection = u64::from(who_asks) + 1;
            if bench.server.clients.by_connection(connection).is_none() {
                models[usize::from(who_asks)] = Default::default();
                prop_assert_eq!(bench.attach(connection, who(who_asks, 0)).0, Status::Ok);
            }
            let others = models[1 - usize::from(who_asks)].0;
            let (allocated, pages) = &mut models[usize::from(who_asks)];
            match step {
                Step::Write(_, list) => {
                    let fits = list.iter().all(|(number, ..)| number < allocated);
                    let status = bench.write(connection, &list);
                    prop_assert_eq!(status == Status::Ok, fits);
                    for (number, version, fill) in list.into_iter().filter(|_| fits) {
                        let there = pages.entry(number).or_default();
                        if there.0 <= version {
                            *there = (version, fill);
                        }
                    }
                }
                Step::Read(_, numbers) => {
                    let reply = bench.read(connection, &numbers);
                    for ((number, page), bytes) in numbers.iter().zip(reply.pages()).zip(reply.data.chunks(PAGE)) {
                        let (version, fill) = pages.get(number).copied().unwrap_or_default();
                        prop_assert_eq!((page.version.get(), page.seal), (version, [fill; 16]));
                        prop_assert!(bytes.iter().all(|byte| *byte == fill));
                    }
                }
                Step::Free(_, number, version) => {
                    bench.ask(connection, Kind::Free, &list(&[page(number, version, 0)], 0), &[]);
                    if pages.get(&number).is_some_and(|there| there.0 <= version) {
                        pages.remove(&number);
                    }
                }
                Step::Invalidate(_, first, count) => {
                    let range = Range { first: first.into(), count: count.into() };
                    bench.ask(connection, Kind::Invalidate, range.as_bytes(), &[]);
                    pages.retain(|number, _| !(first..first + count).contains(number));
                }
                Step::Allocate(_, wanted) => {
                    let amount = Amount { pages: wanted.into() };
                    bench.ask(connection, Kind::Allocate, amount.as_bytes(), &[]);
                    pages.retain(|number, _| *number < wanted.max(if wanted < *allocated { 0 } else { *allocated }));
                    if wanted + others <= PAGES {
                        *allocated = wanted;
                    }
                }
                Step::Detach(_) => {
                    bench.ask(connection, Kind::Detach, &[], &[]);
                    *allocated = 0;
                    pages.clear();
                }
            }
            let stored: usize = models.iter().map(|(_, pages)| pages.len()).sum();
            prop_assert_eq!(bench.server.frames.free, bench.server.layout.frames - stored as u64);
        }
        for connection in [1, 2] {
            bench.ask(connection, Kind::Detach, &[], &[]);
        }
        bench.assert_empty();
    }
}
