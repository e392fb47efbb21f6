//! Numbers: a hash, random numbers, permutations, Zipf's law, histograms. All of it reproducible from a seed.

pub mod float;
pub mod histogram;
pub mod permutation;
pub mod random;
pub mod zipf;
