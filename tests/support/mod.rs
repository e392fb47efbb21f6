//! What the integration tests share.
#![allow(dead_code, reason = "each test binary uses its part")]
pub mod control;
pub mod gmem;
pub mod outside;
pub mod sandbox;
pub mod tiny_elf;
pub mod verified;
