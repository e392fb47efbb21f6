//! A microVM from its configuration to its outcome.
//!
//! [`Machine::build`] makes memory, KVM's side, devices and vCPUs, and loads the kernel. [`Machine::start`] lets the
//! vCPUs go. [`Running::wait`] tells what happens next, [`Running::finish`] stops everything and says how it
//! ended. Between build and start nobody else touches the memory: what serves its pages is put in place there.

mod build;
mod config;
mod error;
mod output;
mod running;

pub use build::Machine;
pub use config::{Config, Payload, Setting};
pub use error::BuildError;
pub use running::{Event, Running};
