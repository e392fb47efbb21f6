//! Requests of all kinds, and who may make them.

use super::*;

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
