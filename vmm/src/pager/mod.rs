//! `gmem pager serve`: memory of this host lent to others.

pub mod listen;
pub mod serve;
