//! Micro-architectures.

use std::ops::Range;

use gmem_core::page::PAGE_SIZE;

use super::mmu::{Format, Gpu, Npu, TABLE_SIZE};

/// A micro-architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// Four levels of tables, granules of 4 KiB.
    Npu,
    /// Five levels, granules of 64 KiB.
    Gpu,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Npu, Self::Gpu];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Npu => Npu::NAME,
            Self::Gpu => Gpu::NAME,
        }
    }

    /// Bytes that come and go together.
    pub fn granule(self) -> u64 {
        let pages = match self {
            Self::Npu => Npu::granule(),
            Self::Gpu => Gpu::granule(),
        };
        pages * PAGE_SIZE as u64
    }

    /// Bytes of page tables that map all guest-physical addresses of `ram`: in each format a table of the last level covers
    /// 2 MiB, one of the level above at least 512 MiB, and there are few others.
    pub fn tables(self, ram: &[Range<u64>]) -> u64 {
        const OTHERS: u64 = 16;
        let covering = |range: &Range<u64>, covers: u64| {
            range.end.div_ceil(covers) - range.start.min(range.end) / covers
        };
        let of = |range| covering(range, 2 << 20) + covering(range, 512 << 20);
        (ram.iter().map(of).sum::<u64>() + OTHERS) * TABLE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tables_are_for_what_is_ram_and_not_for_holes() {
        const MIB: u64 = 1 << 20;
        let tables = |ram: &[Range<u64>]| Arch::Gpu.tables(ram) / TABLE_SIZE - 16;
        assert_eq!(tables(&[0..512 * MIB, 0..0]), 256 + 1);
        assert_eq!(tables(&[0..MIB, 4096 * MIB..4098 * MIB]), 2 + 2);
        assert_eq!(tables(&[MIB..3 * MIB, 0..0]), 2 + 1);
        assert_eq!(tables(&[]), 0);
    }
}
