use super::*;

const GIB: u64 = 1 << 30;

#[test]
fn small_memory_is_one_aligned_region() {
    let ram = GuestRam::new(64 << 20).unwrap();
    assert_eq!(ram.base() % BLOCK_SIZE, 0);
    assert_eq!(ram.regions().len(), 1);
    assert_eq!(ram.size(), 64 << 20);
    assert_eq!(ram.host_address(0x1234), Some(ram.base() + 0x1234));
    assert_eq!(ram.guest_address(ram.base() + 0x1234), Some(0x1234));
    assert_eq!(ram.host_address(64 << 20), None);
    ram.write(0x5000, b"hello").unwrap();
    let mut back = [0; 5];
    ram.read(0x5000, &mut back).unwrap();
    assert_eq!(&back, b"hello");
    assert_eq!(
        ram.write((64 << 20) - 2, b"hello"),
        Err(NotRam {
            gpa: (64 << 20) - 2,
            len: 5
        })
    );
}

#[test]
fn memory_beyond_the_device_hole_continues_at_4_gib() {
    let ram = GuestRam::new(4 * GIB).unwrap();
    assert_eq!(
        ram.regions(),
        [
            RamRegion {
                start: 0,
                size: 3 * GIB
            },
            RamRegion {
                start: 4 * GIB,
                size: GIB
            }
        ]
    );
    assert_eq!(ram.host_address(3 * GIB), None);
    assert_eq!(
        ram.host_address(4 * GIB),
        Some(ram.base() + 4 * GIB as usize)
    );
    assert!(!ram.contains(3 * GIB - 8, 16));
    ram.write(5 * GIB - 8, &[1; 8]).unwrap();
    assert!(ram.write(3 * GIB, &[1]).is_err());
}

#[test]
fn odd_and_absurd_sizes_are_refused() {
    assert!(matches!(GuestRam::new(0), Err(RamError::Size(0))));
    assert!(matches!(GuestRam::new(4097), Err(RamError::Size(4097))));
    assert!(matches!(
        GuestRam::new(GuestRam::LIMIT + 4096),
        Err(RamError::TooLarge { .. })
    ));
}

#[test]
fn a_fresh_reservation_costs_no_memory() {
    let ram = GuestRam::new(16 * GIB).unwrap();
    let mut residency = vec![0u8; 512];
    // SAFETY: asks about 2 MiB of our own mapping; the vector has one byte for each of its pages.
    let rc = unsafe {
        libc::mincore(
            ram.base() as *mut libc::c_void,
            512 * PAGE_SIZE,
            residency.as_mut_ptr(),
        )
    };
    assert_eq!(rc, 0);
    assert!(residency.iter().all(|page| page & 1 == 0));
}

const MIB: u64 = 1 << 20;

fn pluggable(ram: u64, start: u64, size: u64) -> Result<GuestRam, RamError> {
    GuestRam::with_pluggable(ram, Some(RamRegion { start, size }))
}

#[test]
fn what_may_be_plugged_in_is_mapped_and_is_no_ram() {
    let ram = pluggable(5 * MIB, 8 * MIB, 4 * MIB).unwrap();
    assert_eq!(
        (ram.size(), ram.end(), ram.regions().len()),
        (5 * MIB, 5 * MIB, 1)
    );
    assert_eq!(ram.mapped().last(), ram.pluggable());
    assert_eq!(
        ram.host_address(9 * MIB),
        Some(ram.base() + 9 * MIB as usize)
    );
    ram.write(12 * MIB - 4, &[7; 4]).unwrap();
    // What lies between is a hole.
    assert_eq!(ram.host_address(6 * MIB), None);
    assert!(ram.write(8 * MIB - 4, &[7; 8]).is_err());
    assert!(!ram.contains(5 * MIB - 8, 16));
}

#[test]
fn what_may_be_plugged_in_is_whole_blocks_above_ram() {
    for (start, size) in [
        (4 * MIB, 4 * MIB),
        (8 * MIB, 0),
        (8 * MIB, MIB),
        (7 * MIB, 4 * MIB),
        (u64::MAX - MIB + 1, 2 * MIB),
        (8 * MIB, u64::MAX - 2 * MIB + 1),
        (GuestRam::PLUGGABLE_END, 2 * MIB),
    ] {
        let refused = pluggable(5 * MIB, start, size).unwrap_err();
        let is_it = matches!(refused, RamError::Pluggable { least, .. } if least == 6 * MIB);
        assert!(is_it, "{start:#x} {size:#x}: {refused}");
    }
}
