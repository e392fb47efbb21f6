//! The microVM monitor: KVM, vCPUs, boot, guest memory, command line.

pub mod boot;
pub mod check;
pub mod fallback;
pub mod memory;
