//! Emulated accelerators.
//!
//! | module | part |
//! |---|---|
//! | [`mmu`] | page tables in the device's own memory, in each micro-architecture's format; TLBs and their shootdown |
//! | `hardware` | an accelerator: memory, tables, units, and the MMU functions that its driver offers the engine |
//! | `card`, `options`, `arch` | the accelerator as its driver knows it: attached, with streams |
//! | `command` | what an accelerator can be asked to do, and why it was not done |
//! | `processor` | an execution unit at work: commands |
//! | `chunk` | their work a page at a time: fault and replay |
//! | `resident` | the same for accelerators that do not fault: all operands are there, or none |
//! | `operand` | where operands lie: in the accelerator's memory, or in the guest's, over the link |
//! | `stream` | commands in their order, on a thread of the unit's own |
//! | `tensor` | its matrix products and attention |
//! | [`work`] | the arithmetic of commands; a crate of its own, because the bundled guest checks it |

mod arch;
mod card;
mod chunk;
mod command;
mod hardware;
pub mod mmu;
mod operand;
mod options;
mod processor;
mod resident;
mod stream;
mod tensor;

pub use arch::Arch;
pub use card::Card;
pub use command::{Command, CommandError, Element};
pub use hardware::Hardware;
pub use operand::HostMemory;
pub use options::{CardError, CardOptions};
pub use processor::Processor;
pub use stream::{Stream, StreamFull};

pub use gmem_work as work;
