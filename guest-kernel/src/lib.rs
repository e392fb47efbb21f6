//! The bundled guest, less the machine: everything that does not need a bare CPU.
//!
//! The image that `gmem` embeds is the binary of this package (`main.rs`, feature `bare-metal`). This
//! library holds its logic, so that it can be tested on the host: what the command line asks for
//! ([`plan`]), which memory there is ([`memory`]), what a page contains ([`pattern`]), the workloads
//! themselves ([`work`]), and the numbers they are made of ([`math`]).
//!
//! # Workloads
//!
//! The command line is `gmem.cpus=N gmem.tsc_khz=K gmem.devices=D -- WORKLOAD key=value ...`; [`plan::Plan`] lists
//! workloads and options with their defaults. Each works on the RAM above the guest's image, checks what it
//! reads, and prints one line of JSON ([`work::result`]).
//!
//! Workloads on accelerators ([`work::accelerated`]) drive them by virtio ([`accel`]), and check each answer.
//!
//! `hostile` attacks the monitor's devices ([`work::hostile`]). Four workloads exist to test its error paths: `spin`
//! never ends, `wild` writes outside RAM, `triple` faults thrice, `hlt0` touches memory at CPL0.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod accel;
pub mod boot;
pub mod clock;
pub mod extent;
pub mod math;
pub mod memory;
pub mod pattern;
pub mod plan;
pub mod virtio;
pub mod work;
