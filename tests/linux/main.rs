//! Linux in the microVM: its own drivers on every device, programs of others in oversubscribed memory.
//!
//! Kernel and initramfs are those of `images/linux/build`. Privileged code runs at 1 MIPS where KVM has neither VMX nor
//! SVM, so each boot is used for much, and boots come one after the other.

mod balloon;
mod cpus;
mod devices;
mod guest;
mod oversubscribed;
mod shell;

#[path = "../support/mod.rs"]
mod support;
