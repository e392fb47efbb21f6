//! The microVM monitor.

pub mod check;
pub mod fallback;
pub mod memory;
