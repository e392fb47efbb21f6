//! Booting guests.

pub mod bundled;
