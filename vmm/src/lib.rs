//! The microVM monitor.

pub mod fallback;
pub mod memory;
