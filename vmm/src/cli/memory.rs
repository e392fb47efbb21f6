//! `--memory SIZE[,overcommit=allow]`

use super::size::{self, SizeError};

/// The guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryArg {
    /// Bytes.
    pub size: u64,
    /// Whether it may be more than the tiers can hold.
    pub overcommit: bool,
}

/// What is wrong with `--memory`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryArgError {
    /// Its size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// Something else behind the size.
    #[error(
        "'{0}' is not known here; the one option is overcommit=allow, as in 512M,overcommit=allow"
    )]
    Option(String),
}

/// Reads the option's value.
pub fn parse(text: &str) -> Result<MemoryArg, MemoryArgError> {
    let (size_text, overcommit) = match text.split_once(',') {
        None => (text, false),
        Some((size_text, "overcommit=allow")) => (size_text, true),
        Some((_, other)) => return Err(MemoryArgError::Option(other.into())),
    };
    Ok(MemoryArg {
        size: size::parse(size_text)?,
        overcommit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overcommit_is_off_unless_allowed() {
        let memory = |overcommit| MemoryArg {
            size: 512 << 20,
            overcommit,
        };
        assert_eq!(parse("512M"), Ok(memory(false)));
        assert_eq!(parse("512M,overcommit=allow"), Ok(memory(true)));
    }

    #[test]
    fn other_options_are_named_in_the_error() {
        for option in ["overcommit=yes", "", "overcommit=allow,overcommit=allow"] {
            assert_eq!(
                parse(&format!("512M,{option}")),
                Err(MemoryArgError::Option(option.into()))
            );
        }
    }
}
