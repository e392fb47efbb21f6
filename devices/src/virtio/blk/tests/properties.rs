//! Drivers good and bad, by the thousand.

use proptest::prelude::*;

use super::*;
use crate::virtio::testing::{BUFFERS, BUFFERS_END, Shape, attacks_like};

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
