//! How much crosses the link: what the policy of placement is for.

use gmem_core::accel::Placement;
use gmem_core::page::Unit;
use gmem_devices::accel::Command;
use gmem_devices::accel::mmu::{Format, Gpu, Npu};
use gmem_work::Rows;

use crate::placements::attach_reaching;
use crate::simulated::{bench, hbm};
use crate::{PAGE, put};

/// Bytes that cross the link while an accelerator looks up rows of a table eight times as large as its memory, a few of
/// them often; and while it passes over the table again and again.
fn crossed<F: Format>(placement: Placement) -> (u64, u64) {
    const MEMORY: u64 = 128;
    const ROWS: u64 = 8 * MEMORY * PAGE / 128;
    let bench = bench(2048, 1900, Unit::Page, vec![hbm(2048)]);
    put(&bench, 0, &vec![3; (ROWS * 128) as usize]);
    let rows = Rows {
        count: ROWS,
        bytes: 128,
    };
    let mut x = 1u64;
    let mut random = || {
        x = x
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        x >> 33
    };
    let indices = |_| {
        // Half of them in a hot 256th of the table, the rest anywhere.
        let row = match random() % 2 {
            0 => random() % (ROWS / 256),
            _ => random() % ROWS,
        };
        (row as u32).to_le_bytes()
    };
    let indices: Vec<u8> = (0..20_000).flat_map(indices).collect();
    put(&bench, 1500, &indices);
    let (attachment, mut unit) = attach_reaching::<F>(&bench, MEMORY, placement);
    for first in (0..20_000).step_by(1000) {
        let gather = Command::Gather {
            table: 0,
            rows,
            indices: 1500 * PAGE + first * 4,
            count: 1000,
            to: 1600 * PAGE,
        };
        unit.execute(gather).unwrap();
    }
    let gathered = attachment.traffic().bytes();
    let (from, len) = (0, ROWS * 128);
    for _ in 0..4 {
        unit.execute(Command::Sum { from, len }).unwrap();
    }
    (gathered, (attachment.traffic().bytes() - gathered) / len)
}

fn a_gather_and_a_scan<F: Format>() {
    let (gathered, scanned) = crossed::<F>(Placement::Adaptive);
    let (pages, scanned_by_pages) = crossed::<F>(Placement::FirstTouch);
    let (rows, _) = crossed::<F>(Placement::Remote);
    assert!(gathered < rows, "hot rows are near: {gathered} of {rows}");
    assert!(
        gathered < pages / 20,
        "not whole pages: {gathered} of {pages}"
    );
    assert!(scanned <= 5, "a pass costs a pass: {scanned} for 4");
    assert!(scanned < scanned_by_pages);
}

#[test]
fn rows_of_a_table_that_does_not_fit_cross_the_link_and_not_the_pages_around_them() {
    a_gather_and_a_scan::<Npu>();
    a_gather_and_a_scan::<Gpu>();
}
