//! Guest memory and the kernel's means of moving its frames: reservations, userfaultfd, pagemap.

pub mod pagemap;
pub mod reserve;
pub mod userfault;
