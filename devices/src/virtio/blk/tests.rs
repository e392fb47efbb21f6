//! The disk before drivers good and bad, with each engine.

use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use virtio_bindings::virtio_blk::*;
use vmm_sys_util::tempfile::TempFile;

use super::blocking::Blocking;
use super::engine::Engine;
use super::uring::Uring;
use super::*;
use crate::virtio::testing::{BUFFERS, BUFFERS_END, Bench, Part, Sent, Shape, attacks_like};
use crate::virtio::{Device, Limit, Rate};

const SECTOR: usize = 512;
const SECTORS: usize = 64;
const ENGINES: [&str; 2] = ["io_uring", "blocking"];

/// An image whose every byte tells its sector.
struct Image(TempFile);

impl Image {
    fn new() -> Self {
        let image = Self(TempFile::new().unwrap());
        fs::write(image.0.as_path(), content()).unwrap();
        image
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.0.as_path()).unwrap()
    }

    fn options(&self) -> BlkOptions {
        BlkOptions {
            path: self.0.as_path().into(),
            ..BlkOptions::default()
        }
    }

    fn open(&self, engine: &str) -> Bench<Blk> {
        Bench::started(open(self.options(), engine).unwrap())
    }

    fn open_read_only(&self, engine: &str) -> Bench<Blk> {
        let read_only = true;
        let options = BlkOptions {
            read_only,
            ..self.options()
        };
        Bench::started(open(options, engine).unwrap())
    }
}

fn content() -> Vec<u8> {
    (0..SECTORS * SECTOR)
        .map(|at| (at / SECTOR + 1) as u8)
        .collect()
}

fn open(options: BlkOptions, engine: &str) -> Result<Blk, OpenError> {
    let blk = Blk::with_engine(options, |file, depth| -> Box<dyn Engine> {
        match engine {
            "io_uring" => Box::new(Uring::new(Arc::clone(file), depth).unwrap()),
            _ => Box::new(Blocking::new(Arc::clone(file))),
        }
    })?;
    assert_eq!(blk.metrics()["engine"], engine);
    Ok(blk)
}

fn header(kind: u32, sector: u64) -> Part {
    let words = [u64::from(kind), sector];
    Part::Out(words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

fn range(sector: u64, sectors: u32, flags: u32) -> Part {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    Part::Out(bytes)
}

/// Does one request; its status, and how many bytes were written, by what the device says.
fn ask(bench: &mut Bench<Blk>, parts: &[Part]) -> (u8, u32, Sent) {
    let sent = bench.send(0, parts);
    bench.notify(0).unwrap();
    let mut used = Vec::new();
    bench
        .serve_until(|bench| {
            used.extend(bench.used(0));
            !used.is_empty()
        })
        .unwrap();
    assert_eq!(used[0].head, sent.head);
    let status = bench.part(&sent, parts.len() - 1);
    (*status.last().unwrap(), used[0].written, sent)
}

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;

#[test]
fn sectors_are_read_and_written_where_the_header_says() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let parts = [header(VIRTIO_BLK_T_IN, 3), Part::In(1024), Part::In(1)];
        let (status, written, sent) = ask(&mut bench, &parts);
        assert_eq!((status, written), (OK, 1025));
        assert_eq!(bench.part(&sent, 1), [[4; SECTOR], [5; SECTOR]].concat());
        assert!(bench.interrupted());

        let data = Part::Out(vec![0xaa; SECTOR]);
        let parts = [header(VIRTIO_BLK_T_OUT, 7), data, Part::In(1)];
        let (status, written, _) = ask(&mut bench, &parts);
        assert_eq!((status, written), (OK, 1));
        let mut expected = content();
        expected[7 * SECTOR..8 * SECTOR].fill(0xaa);
        assert_eq!(image.bytes(), expected);
        let metrics = bench.device.metrics();
        assert_eq!(metrics["reads"], 1);
        assert_eq!(metrics["read_bytes"], 1024);
        assert_eq!(metrics["written_bytes"], 512);
    }
}

#[test]
fn header_data_and_status_may_come_in_any_pieces() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let Part::Out(mut all) = header(VIRTIO_BLK_T_OUT, 1) else {
            unreachable!()
        };
        all.extend((0..1024).map(|at| at as u8));
        let rest = all.split_off(100);
        let first = all.split_off(5);
        let parts = [
            Part::Out(all),
            Part::Out(first),
            Part::Out(rest),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        let written: Vec<u8> = (0..1024).map(|at| at as u8).collect();
        assert_eq!(image.bytes()[SECTOR..3 * SECTOR], written);

        // The status is the last byte of the last piece.
        let parts = [header(VIRTIO_BLK_T_IN, 1), Part::In(1000), Part::In(25)];
        let (status, count, sent) = ask(&mut bench, &parts);
        assert_eq!((status, count), (OK, 1025));
        let mut read = bench.part(&sent, 1);
        read.extend(bench.part(&sent, 2));
        assert_eq!(read[..1024], written);
    }
}

#[test]
fn a_buffer_may_lie_across_two_regions_of_guest_memory() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let seam = 1 << 20;
        let Part::Out(head) = header(VIRTIO_BLK_T_IN, 0) else {
            unreachable!()
        };
        bench.memory.put(BUFFERS, &head);
        let (at, status) = (seam - 512, seam + 4096);
        let buffers = [(BUFFERS, 16, false), (at, 1024, true), (status, 1, true)];
        bench.rings[0].send(&bench.memory, &buffers);
        bench.notify(0).unwrap();
        bench
            .serve_until(|bench| !bench.used(0).is_empty())
            .unwrap();
        assert_eq!(bench.memory.bytes(status, 1), [OK]);
        assert_eq!(
            bench.memory.bytes(at, 1024),
            [[1; SECTOR], [2; SECTOR]].concat()
        );
    }
}

#[test]
fn what_is_not_all_on_the_disk_fails_and_changes_nothing() {
    let (sectors, whole) = (SECTORS as u64, SECTOR as u32);
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        for sector in [sectors, sectors - 1, u64::MAX, u64::MAX / 512, 1 << 55] {
            let parts = [
                header(VIRTIO_BLK_T_IN, sector),
                Part::In(2 * whole),
                Part::In(1),
            ];
            let (status, written, sent) = ask(&mut bench, &parts);
            assert_eq!((status, written), (IOERR, 0), "reading from {sector}");
            assert!(bench.part(&sent, 1).iter().all(|byte| *byte == 0xee));
            let data = Part::Out(vec![0xaa; 2 * SECTOR]);
            let parts = [header(VIRTIO_BLK_T_OUT, sector), data, Part::In(1)];
            assert_eq!(ask(&mut bench, &parts).0, IOERR, "writing to {sector}");
            for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
                let parts = [header(kind, 0), range(sector, 2, 0), Part::In(1)];
                assert_eq!(ask(&mut bench, &parts).0, IOERR, "clearing from {sector}");
            }
        }
        assert_eq!(image.bytes(), content());
        assert_eq!(bench.device.metrics()["failures"], 20);
    }
}

#[test]
fn half_sectors_and_nothing_at_all_fail() {
    let image = Image::new();
    let mut bench = image.open("blocking");
    for len in [1, 511, 513] {
        let parts = [header(VIRTIO_BLK_T_IN, 0), Part::In(len), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, IOERR);
        let parts = [
            header(VIRTIO_BLK_T_OUT, 0),
            Part::Out(vec![0xaa; len as usize]),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, IOERR);
    }
    let parts = [header(VIRTIO_BLK_T_IN, 0), Part::In(1)];
    assert_eq!(ask(&mut bench, &parts).0, IOERR);
    assert_eq!(image.bytes(), content());
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros_and_nothing_else_does() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        let mut expected = content();
        for (kind, sector, count, flags) in [
            (VIRTIO_BLK_T_DISCARD, 2u64, 3u32, 0),
            (VIRTIO_BLK_T_WRITE_ZEROES, 8, 8, 0),
            (VIRTIO_BLK_T_WRITE_ZEROES, 63, 1, unmap),
        ] {
            let parts = [header(kind, 0), range(sector, count, flags), Part::In(1)];
            assert_eq!(ask(&mut bench, &parts).0, OK);
            let sector = sector as usize;
            expected[sector * SECTOR..(sector + count as usize) * SECTOR].fill(0);
            assert_eq!(image.bytes(), expected);
        }
        assert_eq!(bench.device.metrics()["cleared_bytes"], 12 * SECTOR);
    }
}

#[test]
fn ranges_outside_the_announced_limits_are_refused() {
    let image = Image::new();
    let mut bench = image.open("blocking");
    let mut two = range(0, 1, 0);
    if let Part::Out(bytes) = &mut two {
        bytes.extend(bytes.clone());
    }
    for (kind, data, expected) in [
        (VIRTIO_BLK_T_DISCARD, range(0, 0, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(0, u32::MAX, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(0, 1, 1), UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 1, 2), UNSUPP),
        (VIRTIO_BLK_T_DISCARD, two, IOERR),
        (VIRTIO_BLK_T_DISCARD, Part::Out(vec![0; 15]), IOERR),
    ] {
        assert_eq!(
            ask(&mut bench, &[header(kind, 0), data, Part::In(1)]).0,
            expected
        );
    }
    assert_eq!(image.bytes(), content());
}

#[test]
fn a_read_only_disk_reads_and_never_changes() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open_read_only(engine);
        assert_ne!(bench.device.features() & 1 << VIRTIO_BLK_F_RO, 0);
        assert_eq!(bench.device.features() & 1 << VIRTIO_BLK_F_DISCARD, 0);
        let parts = [header(VIRTIO_BLK_T_IN, 1), Part::In(512), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        let parts = [
            header(VIRTIO_BLK_T_OUT, 1),
            Part::Out(vec![0; 512]),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, IOERR);
        let parts = [
            header(VIRTIO_BLK_T_WRITE_ZEROES, 0),
            range(0, 1, 0),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, UNSUPP);
        let parts = [header(VIRTIO_BLK_T_FLUSH, 0), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        assert_eq!(image.bytes(), content());
    }
}

#[test]
fn the_serial_number_is_told_and_unknown_requests_are_named_so() {
    let image = Image::new();
    let serial = Some("gmem-1".to_owned());
    let options = BlkOptions {
        serial,
        ..image.options()
    };
    let mut bench = Bench::started(open(options, "blocking").unwrap());
    let parts = [header(VIRTIO_BLK_T_GET_ID, 0), Part::In(20), Part::In(1)];
    let (status, written, sent) = ask(&mut bench, &parts);
    assert_eq!((status, written), (OK, 21));
    assert_eq!(bench.part(&sent, 1), *b"gmem-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bench.device.state().serial, "gmem-1");
    for kind in [
        VIRTIO_BLK_T_SCSI_CMD,
        VIRTIO_BLK_T_SECURE_ERASE,
        99,
        u32::MAX,
    ] {
        assert_eq!(ask(&mut bench, &[header(kind, 0), Part::In(1)]).0, UNSUPP);
    }
    assert_eq!(bench.device.metrics()["unsupported"], 4);
}

#[test]
fn requests_without_header_or_status_break_the_device() {
    let image = Image::new();
    for parts in [
        vec![header(VIRTIO_BLK_T_IN, 0)],
        vec![header(VIRTIO_BLK_T_IN, 0), Part::In(0)],
        vec![Part::Out(vec![0; 15]), Part::In(513)],
        vec![Part::In(513)],
    ] {
        let mut bench = image.open("io_uring");
        bench.send(0, &parts);
        assert!(bench.notify(0).is_err(), "{parts:?}");
    }
}

#[test]
fn without_flushes_writes_are_stable_at_once() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = Bench::new(open(image.options(), engine).unwrap());
        let features = bench.device.features() & !(1 << VIRTIO_BLK_F_FLUSH);
        bench.start(features).unwrap();
        assert!(bench.device.state().write_through);
        let parts = [
            header(VIRTIO_BLK_T_OUT, 0),
            Part::Out(vec![9; 512]),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        let parts = [
            header(VIRTIO_BLK_T_WRITE_ZEROES, 0),
            range(1, 1, 0),
            Part::In(1),
        ];
        assert_eq!(ask(&mut bench, &parts).0, OK);
        assert_eq!(image.bytes()[..1024], [[9; 512], [0; 512]].concat());
    }
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        let Part::Out(head) = header(VIRTIO_BLK_T_IN, 5) else {
            unreachable!()
        };
        let (data, status) = (BUFFERS + 0x1000, BUFFERS + 0x2000);
        bench.memory.put(BUFFERS, &head);
        let buffers = [(BUFFERS, 16, false), (data, 512, true), (status, 1, true)];
        let mut answers = 0;
        // The same three descriptors again and again: a rude driver, but a possible one.
        let head = bench.rings[0].send(&bench.memory, &buffers);
        for round in 0..2 {
            for _ in 0..255 - usize::from(round == 0) {
                bench.rings[0].offer(&bench.memory, head);
            }
            bench.notify(0).unwrap();
        }
        bench
            .serve_until(|bench| {
                answers += bench.used(0).len();
                answers == 2 * 255
            })
            .unwrap();
        assert_eq!(bench.memory.bytes(data, 512), [6; 512]);
    }
}

#[test]
fn a_reset_waits_for_what_writes_to_guest_memory() {
    let image = Image::new();
    let mut bench = image.open("io_uring");
    let mut sent = Vec::new();
    for sector in 0..60 {
        sent.push(bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(2048), Part::In(1)],
        ));
    }
    bench.notify(0).unwrap();
    bench.device.reset();
    let fill = |bench: &Bench<Blk>| {
        let parts = sent.iter().map(|sent| bench.part(sent, 1));
        parts.flatten().collect::<Vec<u8>>()
    };
    let after = fill(&bench);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(fill(&bench), after, "nobody writes any more");
    assert!(bench.used(0).is_empty(), "and nothing is answered");
    // And the device works for the next driver.
    bench.set_up();
    bench.start(bench.device.features()).unwrap();
    let parts = [header(VIRTIO_BLK_T_IN, 1), Part::In(512), Part::In(1)];
    assert_eq!(ask(&mut bench, &parts).0, OK);
}

#[test]
fn a_device_that_holds_still_has_answered_everything() {
    let image = Image::new();
    let mut bench = image.open("io_uring");
    for sector in 0..60 {
        bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(1024), Part::In(1)],
        );
    }
    bench.notify(0).unwrap();
    bench.with(|device, guest| device.settle(guest)).unwrap();
    assert_eq!(bench.used(0).len(), 60);
    assert!(bench.interrupted());
}

#[test]
fn the_rate_limit_spreads_requests_over_time() {
    let image = Image::new();
    let limit = Limit {
        per_second: NonZeroU64::new(100 * 512).unwrap(),
        burst: NonZeroU64::new(512).unwrap(),
    };
    let rate = Some(Rate {
        bytes: Some(limit),
        operations: None,
    });
    let blk = open(
        BlkOptions {
            rate,
            ..image.options()
        },
        "io_uring",
    )
    .unwrap();
    let mut bench = Bench::started(blk);
    let began = std::time::Instant::now();
    for sector in 0..11 {
        bench.send(
            0,
            &[header(VIRTIO_BLK_T_IN, sector), Part::In(512), Part::In(1)],
        );
    }
    bench.notify(0).unwrap();
    let mut answers = 0;
    bench
        .serve_until(|bench| {
            answers += bench.used(0).len();
            answers == 11
        })
        .unwrap();
    assert!(began.elapsed().as_millis() >= 90, "{:?}", began.elapsed());
    assert!(bench.device.metrics()["held_back"].as_u64().unwrap() >= 9);
}

#[test]
fn a_file_that_shrinks_fails_its_reads_only() {
    for engine in ENGINES {
        let image = Image::new();
        let mut bench = image.open(engine);
        image.0.as_file().set_len(10 * SECTOR as u64 + 100).unwrap();
        let parts = [header(VIRTIO_BLK_T_IN, 9), Part::In(1024), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, IOERR);
        let parts = [header(VIRTIO_BLK_T_IN, 8), Part::In(1024), Part::In(1)];
        assert_eq!(ask(&mut bench, &parts).0, OK);
    }
}

#[test]
fn the_configuration_says_how_large_and_what_is_allowed() {
    let image = Image::new();
    let config = open(image.options(), "blocking").unwrap().config();
    assert_eq!(config.len(), 60);
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!(
        u64::from_le_bytes(config[..8].try_into().unwrap()),
        SECTORS as u64
    );
    assert_eq!([word(8), word(12), word(20)], [128 << 10, 254, 512]);
    assert_eq!([word(36), word(40), word(44)], [1 << 21, 1, 8], "discard");
    assert_eq!([word(48), word(52), word(56)], [1 << 21, 1, 1], "zeroes");
}

fn refusal(path: impl Into<PathBuf>, read_only: bool) -> OpenError {
    let path = path.into();
    let options = BlkOptions {
        path,
        read_only,
        ..BlkOptions::default()
    };
    Blk::open(options).err().expect("this is no disk")
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let image = Image::new();
    let path = image.0.as_path();
    image.0.as_file().set_len(1000).unwrap();
    let error = refusal(path, false);
    assert!(matches!(error, OpenError::Size { bytes: 1000, .. }));
    let expected = format!("truncate -s %512 {}", path.display());
    assert!(error.to_string().contains(&expected), "{error}");
    image.0.as_file().set_len(0).unwrap();
    assert!(matches!(
        refusal(path, false),
        OpenError::Size { bytes: 0, .. }
    ));
    assert!(matches!(
        refusal("/no/such/disk", true),
        OpenError::NotFound { .. }
    ));
    let found = |path| match refusal(path, true) {
        OpenError::NoImage { found, .. } => found,
        other => panic!("{other}"),
    };
    assert_eq!(found("/"), "a directory");
    assert_eq!(found("/dev/null"), "a character device");
    let host = refusal(path.join("below-a-file"), true);
    assert!(
        matches!(&host, OpenError::Host { error, .. } if error.kind() == ErrorKind::NotADirectory),
        "{host}"
    );
}

#[test]
fn a_disk_has_one_writer_or_any_number_of_readers() {
    let image = Image::new();
    let path = image.0.as_path();
    let writer = Blk::open(image.options()).unwrap();
    assert!(matches!(refusal(path, false), OpenError::Locked { .. }));
    assert!(matches!(refusal(path, true), OpenError::Locked { .. }));
    drop(writer);
    let read_only = || BlkOptions {
        read_only: true,
        ..image.options()
    };
    let _readers = [
        Blk::open(read_only()).unwrap(),
        Blk::open(read_only()).unwrap(),
    ];
    assert!(matches!(refusal(path, false), OpenError::Locked { .. }));
}

#[test]
fn a_serial_number_is_short_and_printable() {
    let image = Image::new();
    for (serial, fine) in [
        ("12345678901234567890", true),
        ("123456789012345678901", false),
        ("with space", false),
        ("naïve", false),
    ] {
        let serial = Some(serial.to_owned());
        let opened = Blk::open(BlkOptions {
            serial,
            ..image.options()
        });
        assert_eq!(opened.is_ok(), fine);
    }
}

const SHAPES: &[Shape] = &[
    &[(16, false), (512, true), (1, true)],
    &[(16, false), (5, true), (4096, true), (508, true)],
    &[(16, false), (1024, false), (1, true)],
    &[(6, false), (30, false), (1004, false), (1, true)],
    &[(32, false), (1, true)],
    &[(16, false), (20, true), (1, true)],
];

/// One request by the rules, its buffers cut at random places.
#[derive(Clone, Debug)]
struct Step {
    kind: u32,
    sector: u64,
    sectors: u32,
    byte: u8,
    cuts: Vec<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = [
        VIRTIO_BLK_T_IN,
        VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_FLUSH,
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
    ];
    let cuts = prop::collection::vec(1..1200usize, 0..6);
    let place = (0..SECTORS as u64 + 2, 1..9u32);
    let kind = prop::sample::select(kinds.to_vec());
    (kind, place, any::<u8>(), cuts).prop_map(|(kind, (sector, sectors), byte, cuts)| Step {
        kind,
        sector,
        sectors,
        byte,
        cuts,
    })
}

/// Bytes in pieces whose lengths are `cuts`, and a last one.
fn cut(len: usize, cuts: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().chain([&usize::MAX]) {
        let end = at + (*cut).min(len - at);
        if end > at {
            pieces.push(at..end);
        }
        at = end;
    }
    pieces
}

/// One step on the device and on the model.
fn play(bench: &mut Bench<Blk>, model: &mut [u8], step: &Step) {
    let len = step.sectors as usize * SECTOR;
    let start = step.sector as usize * SECTOR;
    let place = (start + len <= model.len()).then_some(start..start + len);
    let mut expected = if place.is_some() { OK } else { IOERR };
    let Part::Out(mut out) = header(step.kind, step.sector) else {
        unreachable!()
    };
    let mut room = 1;
    match step.kind {
        VIRTIO_BLK_T_IN => room += len,
        VIRTIO_BLK_T_OUT => out.extend(vec![step.byte; len]),
        VIRTIO_BLK_T_FLUSH => expected = OK,
        _ => match range(step.sector, step.sectors, 0) {
            Part::Out(range) => out.extend(range),
            Part::In(_) => unreachable!(),
        },
    }
    let outs = cut(out.len(), &step.cuts)
        .into_iter()
        .map(|piece| Part::Out(out[piece].to_vec()));
    let ins = cut(room, &step.cuts)
        .into_iter()
        .map(|piece| Part::In(piece.len() as u32));
    let parts: Vec<Part> = outs.chain(ins).collect();
    let (status, _, sent) = ask(bench, &parts);
    assert_eq!(status, expected);
    let Some(place) = place else { return };
    match step.kind {
        VIRTIO_BLK_T_IN => {
            let ins = (0..parts.len()).filter(|at| matches!(parts[*at], Part::In(_)));
            let read: Vec<u8> = ins.flat_map(|at| bench.part(&sent, at)).collect();
            assert!(read[..len] == model[place], "{step:?}");
        }
        VIRTIO_BLK_T_OUT => model[place].fill(step.byte),
        VIRTIO_BLK_T_FLUSH => {}
        _ => model[place].fill(0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever a driver does by the rules, the file is what the model says: to the byte, and no byte more.
    #[test]
    fn the_file_is_what_the_requests_made_it(
        steps in prop::collection::vec(step(), 1..40),
        engine in prop::sample::select(&ENGINES[..]),
    ) {
        let image = Image::new();
        let mut bench = image.open(engine);
        let mut model = content();
        for step in &steps {
            play(&mut bench, &mut model, step);
        }
        prop_assert!(image.bytes() == model);
    }

    /// Memory full of headers, requests at random: the bench checks guest memory, this checks the file.
    #[test]
    fn no_driver_writes_beside_guest_memory_or_the_file(
        attack in attacks_like(SHAPES),
        engine in prop::sample::select(&ENGINES[..]),
        read_only in any::<bool>(),
    ) {
        let image = Image::new();
        let mut bench = match read_only {
            true => image.open_read_only(engine),
            false => image.open(engine),
        };
        let kinds = [0, 1, 0, 4, 8, 11, 13, 77u64];
        let headers: Vec<u8> = (0..(BUFFERS_END - BUFFERS) / 16)
            .flat_map(|at| [kinds[at as usize % 8], 30 + at / 8 % 40])
            .flat_map(u64::to_le_bytes)
            .collect();
        bench.memory.put(BUFFERS, &headers);
        let _ = bench.attack(&attack);
        bench.device.reset();
        let found = image.bytes();
        prop_assert_eq!(found.len(), SECTORS * SECTOR);
        prop_assert!(!read_only || found == content());
    }
}
