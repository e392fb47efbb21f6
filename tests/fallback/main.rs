//! CPL0 code with instructions that KVM's emulator does not know ends with the results that the SDM
//! promises: where the host has VMX or SVM, because the CPU executes them; elsewhere, because the
//! monitor finishes them.

mod extended;
mod machine;
mod privileged;
mod refusals;
mod speed;
mod user;
