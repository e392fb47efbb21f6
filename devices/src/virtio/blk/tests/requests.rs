//! One request at a time.

use super::*;
use crate::virtio::testing::BUFFERS;

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
