//! The microVM monitor: KVM, vCPUs, boot, guest memory, command line.

pub mod accelerators;
pub mod api;
pub mod bench;
pub mod boot;
pub mod check;
pub mod cli;
pub mod console_input;
pub mod devices;
pub mod exit_code;
pub mod fallback;
pub mod figures;
mod footprint;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod pager;
mod poll;
pub mod report;
pub mod signals;
pub mod socket;
mod terminal;
