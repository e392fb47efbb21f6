//! Images that are disks, and files that are none.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::*;

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
