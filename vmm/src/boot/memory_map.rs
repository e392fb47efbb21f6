//! The map of the guest-physical address space that kernels are given.

use gmem_wire::layout;

use crate::memory::ram::GuestRam;

/// Type numbers of an e820 map, which `hvm_start_info` uses too.
pub(super) const RAM: u32 = 1;
pub(super) const RESERVED: u32 = 2;

/// A range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) kind: u32,
}

/// RAM and what is reserved in it, in order of addresses.
pub(super) fn ranges(ram: &GuestRam) -> Vec<Range> {
    let range = |start, end, kind| Range {
        start,
        size: end - start,
        kind,
    };
    let mut ranges = vec![
        range(0, layout::LOW_END, RAM),
        range(layout::LOW_END, layout::FIRMWARE_END, RESERVED),
    ];
    for region in ram.regions() {
        ranges.push(range(
            region.start.max(layout::FIRMWARE_END),
            region.end(),
            RAM,
        ));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_covers_all_ram_once_and_leaves_the_device_hole_out() {
        let size = 5 << 30;
        let ranges = ranges(&GuestRam::new(size).unwrap());
        assert_eq!(ranges.iter().map(|range| range.size).sum::<u64>(), size);
        for pair in ranges.windows(2) {
            assert!(pair[0].start + pair[0].size <= pair[1].start);
        }
        assert!(ranges.iter().all(|range| {
            range.start + range.size <= layout::MMIO_START || range.start >= layout::MMIO_END
        }));
    }
}
