//! What a disk offers: features, and the configuration space.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::file::{Disk, SECTOR};
use super::request::{RANGE_MAX, SEG_MAX, SIZE_MAX};

impl Disk {
    /// Features, besides the transport's.
    pub(super) fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH;
        let read_only = u64::from(self.read_only) << VIRTIO_BLK_F_RO;
        let punches = u64::from(self.punches);
        let clears = punches << VIRTIO_BLK_F_DISCARD | punches << VIRTIO_BLK_F_WRITE_ZEROES;
        always | read_only | clears
    }

    /// The configuration, laid out as `struct virtio_blk_config`.
    pub(super) fn config(&self) -> Vec<u8> {
        let mut config = Vec::with_capacity(60);
        config.extend(self.sectors.to_le_bytes());
        config.extend(SIZE_MAX.to_le_bytes());
        config.extend(SEG_MAX.to_le_bytes());
        // Geometry: none.
        config.extend([0; 4]);
        config.extend((SECTOR as u32).to_le_bytes());
        // Topology, write-back, queues: not on offer.
        config.extend([0; 12]);
        // Discard, then zeroing: sectors in a range, ranges in a request; sectors to align to.
        config.extend(RANGE_MAX.to_le_bytes());
        config.extend(1u32.to_le_bytes());
        config.extend(8u32.to_le_bytes());
        config.extend(RANGE_MAX.to_le_bytes());
        config.extend(1u32.to_le_bytes());
        // Zeroing may give space back.
        config.extend([1, 0, 0, 0]);
        config
    }
}
