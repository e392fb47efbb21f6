//! Memory of a guest, between guards.

use std::io;
use std::sync::{Arc, Mutex};

use vm_memory::mmap::MmapRegion;
use vm_memory::{
    ByteValued, Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, VolatileMemory,
};

use crate::virtio::{DeviceMemory, Incoming};

/// Guest-physical address and size of each region. The first two touch each other for the guest, not in the host.
pub(crate) const REGIONS: [(u64, usize); 3] =
    [(0, 1 << 20), (1 << 20, 1 << 20), (3 << 20, 1 << 20)];
/// Guard around each region, bytes.
const GUARD: usize = 64 << 10;
const GUARD_BYTE: u8 = 0x5a;
/// Where the rings of queue 0 are; those of the next queue follow after as much again.
pub(crate) const RINGS: u64 = 0x8000;
/// Where buffers begin.
pub(crate) const BUFFERS: u64 = 0x8_0000;
/// Where buffers end.
pub(crate) const BUFFERS_END: u64 = 2 << 20;

/// Memory of a guest, between guards.
pub(crate) struct TestMemory {
    view: GuestMemoryMmap,
    host: MmapRegion,
    pub(crate) incoming: Incoming,
    /// What the device freed: addresses and lengths.
    pub(crate) freed: Mutex<Vec<(u64, u64)>>,
}

impl TestMemory {
    pub(crate) fn new() -> Arc<Self> {
        let total = GUARD + REGIONS.iter().map(|(_, len)| len + GUARD).sum::<usize>();
        let host = MmapRegion::new(total).unwrap();
        let all = host.get_slice(0, total).unwrap();
        all.write(&vec![GUARD_BYTE; total], 0).unwrap();
        let mut at = GUARD;
        let regions = REGIONS.map(|(base, len)| {
            all.write(&vec![0; len], at).unwrap();
            // SAFETY: the range lies within `host`, which is dropped after the regions.
            let mapping = unsafe {
                MmapRegion::build_raw(host.as_ptr().add(at), len, host.prot(), host.flags())
            };
            at += len + GUARD;
            GuestRegionMmap::new(mapping.unwrap(), GuestAddress(base)).unwrap()
        });
        Arc::new(Self {
            view: GuestMemoryMmap::from_regions(regions.into()).unwrap(),
            host,
            incoming: Incoming::default(),
            freed: Mutex::default(),
        })
    }

    /// Fails if somebody wrote beside the guest's memory.
    pub(crate) fn check_guards(&self) {
        let mut guard = vec![0; GUARD];
        let mut at = 0;
        for len in REGIONS.iter().map(|(_, len)| *len).chain([0]) {
            let slice = self.host.get_slice(at, GUARD).unwrap();
            slice.copy_to(&mut guard);
            assert!(
                guard.iter().all(|byte| *byte == GUARD_BYTE),
                "somebody wrote beside the guest's memory"
            );
            at += GUARD + len;
        }
    }

    pub(crate) fn bytes(&self, gpa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.view.read_slice(&mut bytes, GuestAddress(gpa)).unwrap();
        bytes
    }

    pub(crate) fn put(&self, gpa: u64, bytes: &[u8]) {
        self.view.write_slice(bytes, GuestAddress(gpa)).unwrap();
    }

    pub(super) fn put_value<T: ByteValued>(&self, gpa: u64, value: T) {
        self.put(gpa, value.as_slice());
    }

    pub(super) fn u16_at(&self, gpa: u64) -> u16 {
        self.view.read_obj(GuestAddress(gpa)).unwrap()
    }
}

impl DeviceMemory for TestMemory {
    fn view(&self) -> &GuestMemoryMmap {
        &self.view
    }

    fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    fn free(&self, gpa: u64, len: u64) -> io::Result<()> {
        let zeros = vec![0; len as usize];
        self.view
            .write_slice(&zeros, GuestAddress(gpa))
            .map_err(io::Error::other)?;
        self.freed.lock().unwrap().push((gpa, len));
        Ok(())
    }
}
