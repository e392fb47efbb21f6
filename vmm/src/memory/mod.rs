//! The guest's memory on the host.
pub mod ram;
