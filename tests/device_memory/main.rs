//! Guest memory as the threads of devices use it, on real userfaultfd: they touch it like a vCPU while its pages
//! come and go, hand it to the kernel for I/O, give back what the guest gave up, and plug memory in and out.

mod freeing;
mod input;
mod lost;
mod plugging;
mod stopping;
mod support;
