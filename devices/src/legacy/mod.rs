//! Devices that a guest reaches by port I/O: the console, what is left of a PC's keyboard controller and clock, and
//! the two ports that end and mark a run.
//!
//! [`Ports`] routes an access to its device. The devices themselves know nothing of KVM.
mod console;
mod line_tap;
mod ports;

pub use console::{Console, ConsoleWires};
pub use line_tap::{LineTap, MAX_LINE, RESULT_PREFIX, ResultLine};
pub use ports::{Action, Ports};
