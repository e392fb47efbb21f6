//! The pager: memory that somebody else owns, reached by messages (docs/pager-protocol.md).
//!
//! A [`Client`](client::Client) keeps pages at a [`server`] that it reaches over a [`channel`]. The hnode
//! [`remote`](crate::hnode::remote) stores pages of a guest that way, sealed so that nothing that comes back is taken
//! for a page that it is not.

pub mod address;
pub mod channel;
pub mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod holder;
pub mod redis_store;
pub mod server;

pub use pager_wire as wire;
