//! The GPU's format: five levels, pages of 64 KiB and 2 MiB in three kinds of memory, and no notes of accesses.
//!
//! Virtual addresses have 49 bits: 2 for the root, then 9, 9, 8, and 5 for the sixteenths of a MiB.
//!
//! | bits | of an entry |
//! |---|---|
//! | 0 | valid |
//! | 1..3 | aperture: 0 local, 1 peer, 2 system |
//! | 3 | maps a page |
//! | 4..6 | rights of a page: 0 none, 1 read, 2 write, 3 atomic |
//! | 8..44 | address of the page or table, in units of 4 KiB |
//! | 44..47 | which peer |
//!
//! All others are zero. Tables are in local memory.

use super::{Aperture, Decoded, Format, Leaf, Level, Rights, Target};

const VALID: u64 = 1;
const PEER: u64 = 1 << 1;
const SYSTEM: u64 = 2 << 1;
const APERTURE: u64 = 3 << 1;
const PAGE: u64 = 1 << 3;
const RIGHTS_SHIFT: u32 = 4;
const ADDRESS_SHIFT: u32 = 8;
const ADDRESS_BITS: u32 = 36;
const PEER_SHIFT: u32 = 44;
const PEERS: u64 = 8;
const RIGHTS: [Rights; 4] = [Rights::None, Rights::Read, Rights::Write, Rights::Atomic];

/// The GPU's format.
#[derive(Debug)]
pub enum Gpu {}

const fn level(shift: u32, bits: u32, maps: bool) -> Level {
    Level { shift, bits, maps }
}

/// The field of `bits` bits from bit `shift` on.
const fn field(entry: u64, shift: u32, bits: u32) -> u64 {
    entry >> shift & ((1 << bits) - 1)
}

impl Format for Gpu {
    const NAME: &'static str = "gpu";
    const LEVELS: &'static [Level] = &[
        level(47, 2, false),
        level(38, 9, false),
        level(29, 9, false),
        level(21, 8, true),
        level(16, 5, true),
    ];

    fn table(at: u64) -> u64 {
        VALID | at >> 12 << ADDRESS_SHIFT
    }

    fn page(_: &Level, leaf: Leaf) -> Option<u64> {
        let frame = leaf.target.address >> 12;
        let (aperture, peer) = match leaf.target.aperture {
            Aperture::Local => (0, 0),
            Aperture::Peer(peer) => (PEER, u64::from(peer)),
            Aperture::System => (SYSTEM, 0),
        };
        let rights = (leaf.rights as u64) << RIGHTS_SHIFT;
        let entry = VALID | PAGE | aperture | rights | frame << ADDRESS_SHIFT | peer << PEER_SHIFT;
        (frame >> ADDRESS_BITS == 0 && peer < PEERS).then_some(entry)
    }

    fn decode(level: &Level, entry: u64) -> Decoded {
        let address = field(entry, ADDRESS_SHIFT, ADDRESS_BITS) << 12;
        let aperture = match entry & APERTURE {
            0 => Aperture::Local,
            PEER => Aperture::Peer(field(entry, PEER_SHIFT, 3) as u8),
            _ => Aperture::System,
        };
        let leaf = Leaf {
            target: Target { aperture, address },
            rights: RIGHTS[field(entry, RIGHTS_SHIFT, 2) as usize],
        };
        // What says the same as an entry that we would make is one: reserved bits are zero.
        match () {
            () if entry & VALID == 0 => Decoded::Empty,
            () if Self::table(address) == entry => Decoded::Table(address),
            () if Self::page(level, leaf) == Some(entry) => Decoded::Page(leaf),
            () => Decoded::Malformed,
        }
    }
}
