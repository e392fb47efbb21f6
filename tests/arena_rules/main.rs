//! The rules of memory that travels by `UFFDIO_MOVE`, each on real userfaultfd.
//!
//! Two kinds of test stand side by side. Where gmem enforces a rule (how memory is reserved and registered,
//! what a move's answer means, how a userfaultfd is opened), the test goes through the module that enforces
//! it and fails when the module stops. Where a rule guards against something the kernel does, the test
//! shows the kernel doing it, so that a kernel that changes its mind is noticed.
//!
//! Nothing here passes silently: without userfaultfd or /dev/kvm the tests fail and say what is missing.

mod clean;
mod copying;
mod creating;
mod forking;
mod huge;
mod kernel_mode;
mod moving;
mod opening;
mod pinned;
mod present;
mod raced;
mod support;
mod vcpu;
mod waiting;
