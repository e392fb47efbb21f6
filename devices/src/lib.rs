//! Devices of a gmem microVM.
pub mod legacy;
pub mod virtio;
