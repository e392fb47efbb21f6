use std::io::Cursor;

use proptest::prelude::*;

use super::*;

fn written(pages: u64, window: u32, touches: &[u32]) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let mut writer = Writer::new(&mut file, pages, window).unwrap();
    for page in touches {
        assert!(writer.touch((*page).into()).unwrap());
    }
    assert_eq!(writer.finish().unwrap(), touches.len() as u64);
    file.into_inner()
}

fn with(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// What is wrong with `file`, in words.
fn wrong(file: &[u8]) -> String {
    Recording::read(file).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        window in 1_u32..,
        touches in prop::collection::vec(0..MOST_PAGES as u32, 0..200),
    ) {
        let recording = Recording::read(&written(MOST_PAGES, window, &touches)[..]).unwrap();
        prop_assert_eq!(recording, Recording { window, guest_pages: MOST_PAGES, touches });
    }

    #[test]
    fn garbage_is_an_error_or_stays_in_bounds(
        header in any::<bool>(),
        mut file in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if header {
            let good = written(1000, 64, &[]);
            file.splice(..0, with(good, 24, &100_u64.to_le_bytes()));
        }
        if let Ok(recording) = Recording::read(&file[..]) {
            prop_assert!(recording.touches.iter().all(|page| u64::from(*page) < recording.guest_pages));
        }
    }

    #[test]
    fn compacted_pages_keep_their_order_and_their_place_in_their_clusters(
        touches in prop::collection::vec(0..MOST_PAGES as u32, 1..100),
    ) {
        let recording = Recording { window: 1, guest_pages: MOST_PAGES, touches };
        let (compacted, pages) = recording.compacted();
        prop_assert!(compacted.iter().all(|page| *page < pages));
        prop_assert!(pages as usize <= 64 * compacted.len());
        for (a, b) in recording.touches.iter().zip(&compacted) {
            prop_assert_eq!(a % 64, b % 64);
            for (c, d) in recording.touches.iter().zip(&compacted) {
                prop_assert_eq!(a.cmp(c), b.cmp(d));
            }
        }
    }
}

#[test]
fn neighbours_take_a_byte_each() {
    let touches: Vec<u32> = (500..600).chain((500..600).rev()).collect();
    assert_eq!(
        written(1000, 64, &touches).len(),
        HEADER + 1 + touches.len()
    );
}

#[test]
fn something_else_is_no_recording() {
    for file in [&b""[..], b"gmemtrc\n", &[0; 100], &[0xff; 4096]] {
        assert!(matches!(Recording::read(file), Err(RecordingError::Other)));
    }
}

#[test]
fn other_versions_and_ways_are_named() {
    let good = written(10, 1, &[3]);
    assert!(wrong(&with(good.clone(), 8, &[7, 1])).contains("version 263"));
    assert!(wrong(&with(good, 10, &[9, 0])).contains("way 9"));
}

#[test]
fn a_recording_that_did_not_end_is_an_error() {
    let mut file = Cursor::new(Vec::new());
    let touched = Writer::new(&mut file, 10, 1).unwrap().touch(3);
    assert!(touched.unwrap());
    let read = Recording::read(&file.into_inner()[..]);
    assert!(matches!(read, Err(RecordingError::Unfinished)));
}

#[test]
fn every_truncation_is_an_error() {
    let good = written(1 << 20, 16, &[0, 1 << 19, 5, 5, (1 << 20) - 1]);
    for len in 0..good.len() {
        let error = Recording::read(&good[..len]).unwrap_err();
        match len {
            0..HEADER => assert!(matches!(error, RecordingError::Other), "{len}: {error}"),
            _ => assert!(
                matches!(error, RecordingError::Truncated { expected: 5, found } if found < 5),
                "{len}: {error}"
            ),
        }
    }
}

#[test]
fn a_huge_header_allocates_nothing_and_is_an_error() {
    let good = written(10, 1, &[3]);
    let huge = |at, number: u64| with(good.clone(), at, &number.to_le_bytes());
    assert!(wrong(&huge(16, 1 << 40)).contains("1099511627776 for its pages"));
    assert!(wrong(&huge(24, u64::MAX - 1)).contains("for its touches"));
    // The most that is allowed, of which one is there.
    assert!(wrong(&huge(24, MOST_TOUCHES)).contains("ends after 1 of 67108864"));
    assert!(wrong(&with(good, 12, &[0; 4])).contains("0 for its window"));
}

#[test]
fn pages_that_the_guest_does_not_have_are_errors() {
    let good = written(10, 1, &[3, 9]);
    // Behind the last page, before the first, and a difference of more than five bytes.
    for last in [14, 7] {
        let bad = with(good.clone(), HEADER + 1, &[last]);
        assert!(wrong(&bad).contains("touch 1 is of no page"), "{last}");
    }
    let mut long = written(10, 1, &[3]);
    long.splice(HEADER.., [0x80; 12]);
    assert!(wrong(&long).contains("touch 0 is of no page"));
}

#[test]
fn more_than_was_announced_is_an_error() {
    let mut file = written(10, 1, &[3]);
    file.push(0);
    assert!(wrong(&file).contains("more behind its 1 touches"));
}

#[test]
fn a_page_that_the_guest_does_not_have_is_not_written() {
    assert!(Writer::new(Cursor::new(Vec::new()), MOST_PAGES + 1, 1).is_err());
    assert!(Writer::new(Cursor::new(Vec::new()), 1, 0).is_err());
    let mut writer = Writer::new(Cursor::new(Vec::new()), 10, 1).unwrap();
    assert!(writer.touch(10).is_err());
}
