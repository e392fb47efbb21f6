//! The microVM monitor.

pub mod memory;
