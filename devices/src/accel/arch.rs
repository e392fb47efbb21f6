//! Micro-architectures.

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

    /// Bytes of page tables that map guest-physical addresses below `top`: in each format a table of the last level covers
    /// 2 MiB, one of the level above at least 512 MiB, and there are few others.
    pub fn tables(self, top: u64) -> u64 {
        const OTHERS: u64 = 16;
        (top.div_ceil(2 << 20) + top.div_ceil(512 << 20) + OTHERS) * TABLE_SIZE
    }
}
