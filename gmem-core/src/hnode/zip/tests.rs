use super::*;
use proptest::prelude::*;

fn page(fill: impl Fn(usize) -> u8) -> Vec<u8> {
    (0..PAGE_SIZE).map(fill).collect()
}

fn noise(seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    page(|_| 0)
        .iter()
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

#[test]
fn a_page_filled_with_one_value_takes_no_bytes() {
    let zip = Zip::new("zip", 1 << 20).expect("memory");
    let filled = page(|at| (at % 8) as u8 + 1);
    let frames: Vec<_> = (0..1000)
        .map(|_| zip.store(&filled).expect("takes no room"))
        .collect();
    assert_eq!(zip.usage().used_bytes, 0);
    let mut back = vec![0; PAGE_SIZE];
    zip.load(frames[999], &mut back).expect("it is there");
    assert_eq!(back, filled);
    frames
        .into_iter()
        .for_each(|frame| zip.free(frame, Unit::Page));
    assert_eq!(zip.usage().pages, 0);
}

#[test]
fn it_takes_as_many_incompressible_pages_as_it_guarantees_in_any_order_of_frees() {
    let zip = Zip::new("zip", 1 << 20).expect("memory");
    let total = zip.guaranteed_pages();
    assert!(
        total >= 240,
        "the metadata of a page is small: {total} of 256"
    );
    let mut frames: Vec<_> = (0..total)
        .map(|n| zip.store(&noise(n)).expect("guaranteed"))
        .collect();
    assert!(matches!(zip.store(&noise(9999)), Err(StoreError::Full)));
    assert!(zip.usage().used_bytes <= zip.usage().capacity_bytes);
    for n in (0..frames.len()).step_by(3) {
        zip.free(frames[n], Unit::Page);
        frames[n] = zip
            .store(&noise(n as u64 + 5000))
            .expect("a page was freed");
    }
    let mut back = vec![0; PAGE_SIZE];
    for (n, frame) in frames.iter().enumerate() {
        zip.load(*frame, &mut back).expect("it is there");
        assert_eq!(back, noise(n as u64 + if n % 3 == 0 { 5000 } else { 0 }));
    }
}

#[test]
fn the_stored_bytes_never_exceed_the_capacity() {
    let zip = Zip::new("zip", 100_000).expect("memory");
    let mut n = 0;
    while zip.store(&noise(n)).is_ok() {
        n += 1;
    }
    let usage = zip.usage();
    assert!(
        usage.used_bytes <= 100_000 && usage.peak_bytes <= 100_000,
        "{usage:?}"
    );
    assert_eq!(usage.pages, zip.guaranteed_pages());
}

#[test]
fn more_different_fills_than_the_dictionary_holds_are_stored_all_the_same() {
    let zip = Zip::new("zip", 4 << 20).expect("memory");
    let filled = |n: u64| n.to_ne_bytes().repeat(PAGE_SIZE / 8);
    let frames: Vec<_> = (1..5000)
        .map(|n| zip.store(&filled(n)).expect("room"))
        .collect();
    let mut back = vec![0; PAGE_SIZE];
    for (frame, n) in frames.iter().zip(1..) {
        zip.load(*frame, &mut back).expect("it is there");
        assert_eq!(back, filled(n));
    }
    frames
        .into_iter()
        .for_each(|frame| zip.free(frame, Unit::Page));
    assert_eq!(zip.usage().used_bytes, 0);
}

proptest! {
    #[test]
    fn what_is_loaded_is_what_was_stored(runs in prop::collection::vec((any::<u8>(), 1usize..600), 1..80), seed: u64) {
        let mut bytes: Vec<u8> = runs.iter().flat_map(|(byte, length)| std::iter::repeat_n(*byte, *length)).collect();
        bytes.extend(noise(seed));
        bytes.truncate(PAGE_SIZE);
        let zip = Zip::new("zip", 1 << 16).expect("memory");
        let frame = zip.store(&bytes).expect("room");
        let mut back = vec![0; PAGE_SIZE];
        zip.load(frame, &mut back).expect("it is there");
        prop_assert_eq!(back, bytes);
        zip.free(frame, Unit::Page);
        prop_assert_eq!(zip.usage().used_bytes, 0);
    }
}
