//! Sizes on the command line: `64K`, `512M`, `4G`, or plain bytes. Powers of 1024.

use gmem_core::page::PAGE_SIZE;

/// What is wrong with a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with one of the known suffixes.
    #[error("'{0}' is not a size; give a whole number, plain or with K, M, G or T, like 512M")]
    Unparsable(String),
    /// Nothing.
    #[error("the size is zero; give at least 4K")]
    Zero,
    /// More than 64 bits can count.
    #[error("'{0}' is more bytes than an address can reach; give less")]
    Overflow(String),
    /// Not whole pages.
    #[error("{0} bytes are not a multiple of 4096; give whole pages, like 4K")]
    NotPages(u64),
}

/// Bytes, a multiple of 4 KiB, more than none.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let unparsable = || SizeError::Unparsable(text.into());
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, suffix)) if !suffix.is_ascii_digit() => {
            let shift = match suffix.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(unparsable()),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(unparsable());
    }
    // Only digits are left: the one error is a number that is too large.
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| SizeError::Overflow(text.into()))?;
    if bytes == 0 {
        return Err(SizeError::Zero);
    }
    if !bytes.is_multiple_of(PAGE_SIZE as u64) {
        return Err(SizeError::NotPages(bytes));
    }
    Ok(bytes)
}

/// As [`parse`], or none at all.
pub fn parse_or_zero(text: &str) -> Result<u64, SizeError> {
    match parse(text) {
        Err(SizeError::Zero) => Ok(0),
        parsed => parsed,
    }
}

/// `bytes` as it would be typed: with the largest suffix that leaves a whole number.
pub fn display(bytes: u64) -> String {
    for (shift, suffix) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{suffix}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64K"), Ok(64 << 10));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("4g"), Ok(4 << 30));
        assert_eq!(parse("1T"), Ok(1 << 40));
    }

    #[test]
    fn what_is_shown_can_be_typed_again() {
        for bytes in [4096, 64 << 10, 3 << 20, 5 << 30, 1 << 40, (1 << 30) + 4096] {
            assert_eq!(parse(&display(bytes)), Ok(bytes));
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for text in [
            "", "M", "1.5G", "-4K", "+4K", "4 K", "4KB", "0x1000", "4Ki", "١K", "4é", "é",
        ] {
            assert_eq!(parse(text), Err(SizeError::Unparsable(text.into())));
        }
        assert_eq!(parse("0"), Err(SizeError::Zero));
        assert_eq!(parse("0G"), Err(SizeError::Zero));
        assert_eq!(parse("1000"), Err(SizeError::NotPages(1000)));
        for text in ["99999999999999999999", "18446744073709551615K", "16777216T"] {
            assert_eq!(parse(text), Err(SizeError::Overflow(text.into())));
        }
    }
}
