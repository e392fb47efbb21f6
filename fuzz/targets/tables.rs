//! Page tables of accelerators that hold anything: a walk ends, and reads nothing beside the memory.
#![no_main]

use std::sync::atomic::AtomicU64;

use gmem_core::page::PageNo;
use gmem_devices::accel::mmu::{Access, BadAddress, Format, Gpu, LocalMemory, Npu, walk};

const TABLES: u64 = 4;

/// Memory that holds what it is told, again and again.
struct Memory(Vec<AtomicU64>);

impl LocalMemory for Memory {
    fn word(&self, at: u64) -> Result<&AtomicU64, BadAddress> {
        let size = self.0.len() as u64 * 8;
        match at.is_multiple_of(8) && at < size {
            true => Ok(&self.0[(at / 8) as usize]),
            false => Err(BadAddress { at, size }),
        }
    }
}

fn walks<F: Format>(memory: &Memory, root: u64, page: u64) {
    for access in [Access::Read, Access::Write, Access::Atomic] {
        if let Ok(found) = walk::<F>(memory, root, PageNo(page), access) {
            assert!(found.range.contains(PageNo(page)));
            assert!(found.rights >= access.needs());
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (words, rest) = bytes.as_chunks::<8>();
    let Some((page, words)) = words.split_first() else {
        return;
    };
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let all = words.cycle().take((TABLES * 512) as usize);
    let memory = Memory(all.map(AtomicU64::new).collect());
    let root = u64::from(rest.first().copied().unwrap_or(0)) % TABLES * 4096;
    let page = u64::from_le_bytes(*page) >> 12;
    walks::<Npu>(&memory, root, page);
    walks::<Gpu>(&memory, root, page);
});
