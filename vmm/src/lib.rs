//! The microVM monitor.

pub mod fallback;
