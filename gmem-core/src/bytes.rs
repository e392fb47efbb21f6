//! Sizes as people write them.

use std::fmt;

/// A number of bytes, shown in the largest unit (powers of 1024) that divides it: `512M`, `523776K`.
/// The command line reads what this shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1 << 40, "T"),
            (1 << 30, "G"),
            (1 << 20, "M"),
            (1 << 10, "K"),
        ];
        match units
            .iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_exact_in_the_largest_unit_that_divides_it() {
        let shown =
            [0, 1, 4096, 512 << 20, 536_346_624, 3 << 40].map(|size| Bytes(size).to_string());
        assert_eq!(shown, ["0 bytes", "1 bytes", "4K", "512M", "523776K", "3T"]);
    }
}
