//! Guest memory and the kernel's means of moving its frames.

pub mod pagemap;
pub mod ram;
pub mod reserve;
pub mod userfault;
