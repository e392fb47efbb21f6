//! The NPU's format: four levels of 9 bits, pages of 4 KiB and 2 MiB in its own memory or the system's, accessed and
//! dirty bits.
//!
//! | bits | of an entry |
//! |---|---|
//! | 0 | present |
//! | 1 | writable, by atomic operations too |
//! | 5, 6 | accessed, dirty: set by the walker |
//! | 7 | maps a page; on the last level always |
//! | 8 | the page is in the system's memory, which is kept coherent with its CPUs |
//! | 12..48 | address of the page or table, bytes |
//!
//! All others are zero, and tables are in its own memory. Every page is readable, and writable means everything: the rights are `Read` and `Atomic`.

use super::{Aperture, Decoded, Format, Leaf, Level, Rights, Target};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const PAGE: u64 = 1 << 7;
const SYSTEM: u64 = 1 << 8;
const ADDRESS: u64 = (1 << 48) - (1 << 12);

/// The NPU's format.
#[derive(Debug)]
pub enum Npu {}

const fn level(shift: u32, maps: bool) -> Level {
    let bits = 9;
    Level { shift, bits, maps }
}

impl Format for Npu {
    const NAME: &'static str = "npu";
    const LEVELS: &'static [Level] = &[
        level(39, false),
        level(30, false),
        level(21, true),
        level(12, true),
    ];
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;

    fn table(at: u64) -> u64 {
        PRESENT | at
    }

    fn page(_: &Level, leaf: Leaf) -> Option<u64> {
        let writable = match leaf.rights {
            Rights::Atomic => WRITABLE,
            Rights::Read => 0,
            _ => return None,
        };
        let system = match leaf.target.aperture {
            Aperture::Local => 0,
            Aperture::System => SYSTEM,
            Aperture::Peer(_) => return None,
        };
        let expressible = leaf.target.address & !ADDRESS == 0;
        expressible.then_some(PRESENT | PAGE | system | writable | leaf.target.address)
    }

    fn decode(_: &Level, entry: u64) -> Decoded {
        let noted = Self::ACCESSED | Self::DIRTY;
        match entry & !ADDRESS & !noted {
            flags if flags & PRESENT == 0 => Decoded::Empty,
            PRESENT if entry & noted == 0 => Decoded::Table(entry & ADDRESS),
            flags if flags & !(WRITABLE | SYSTEM) == PRESENT | PAGE => Decoded::Page(Leaf {
                target: Target {
                    aperture: match flags & SYSTEM {
                        0 => Aperture::Local,
                        _ => Aperture::System,
                    },
                    address: entry & ADDRESS,
                },
                rights: if flags & WRITABLE == 0 {
                    Rights::Read
                } else {
                    Rights::Atomic
                },
            }),
            _ => Decoded::Malformed,
        }
    }
}
