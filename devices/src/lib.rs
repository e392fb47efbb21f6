//! Devices of a gmem microVM.
pub mod accel;
pub mod legacy;
pub mod virtio;
