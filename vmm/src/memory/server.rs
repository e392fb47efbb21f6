//! The seam at which something other than the engine can serve a guest's memory: what the engine is to be
//! compared with, for example.

use std::sync::Arc;

use super::arming::ArmError;
use super::failure::Failure;
use super::ram::GuestRam;

/// Serves the memory of one microVM, in place of the engine.
pub trait Server: Send + Sync {
    /// Takes over `ram`, whose vCPUs will run on the host CPUs `cpus` and do not run yet. What goes wrong
    /// later is recorded in `failure`, which ends the microVM.
    fn serve(
        &self,
        ram: &Arc<GuestRam>,
        cpus: &[usize],
        failure: &Arc<Failure>,
    ) -> Result<Box<dyn Serving>, ArmError>;
}

/// Memory that is being served, until this is dropped: after the last vCPU has gone.
pub trait Serving: Send + Sync {}
