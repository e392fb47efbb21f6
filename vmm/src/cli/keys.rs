//! `key=value` words behind an option's first, such as those of `--tier` and `--accel`.

use super::size::{self, SizeError};

/// What is wrong with one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// Not a key with a value.
    #[error("'{0}' is not key=value; separate keys by commas, like hbm:1G,latency_us=5")]
    NotKeyValue(String),
    /// A key that the thing does not have.
    #[error("{of} has no key '{key}'; {remedy}")]
    Unknown {
        /// What it was given to.
        of: &'static str,
        /// As given.
        key: String,
        /// What it has.
        remedy: &'static str,
    },
    /// A key twice.
    #[error("key '{0}' is given twice; give it once")]
    Duplicate(String),
    /// A value that does not fit its key.
    #[error("{key}={value} does not fit; give {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// As given.
        value: String,
        /// What fits.
        expected: &'static str,
    },
    /// A size.
    #[error(transparent)]
    Size(#[from] SizeError),
}

/// A key with its value.
pub(super) type Key<'a> = (&'a str, &'a str);

/// The words, each a key with its value, none twice.
pub(super) fn read<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<Key<'a>>, KeyError> {
    let mut keys: Vec<Key<'a>> = Vec::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| KeyError::NotKeyValue(word.into()))?;
        if keys.iter().any(|(known, _)| *known == key) {
            return Err(KeyError::Duplicate(key.into()));
        }
        keys.push((key, value));
    }
    Ok(keys)
}

/// `of` has no such key.
pub(super) fn unknown(of: &'static str, key: &str, remedy: &'static str) -> KeyError {
    KeyError::Unknown {
        of,
        key: key.into(),
        remedy,
    }
}

/// The value does not fit.
pub(super) fn bad_value(key: &'static str, value: &str, expected: &'static str) -> KeyError {
    KeyError::Value {
        key,
        value: value.into(),
        expected,
    }
}

/// Microseconds.
pub(super) fn latency(key: &'static str, value: &str) -> Result<u32, KeyError> {
    let latency = value.parse();
    latency.map_err(|_| bad_value(key, value, "whole microseconds"))
}

/// A bandwidth, 10^9 bytes a second.
pub(super) fn rate(key: &'static str, value: &str) -> Result<f64, KeyError> {
    let rate = value
        .parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| bad_value(key, value, "a positive number of 10^9 bytes a second"))
}

/// A size.
pub(super) fn size(value: &str) -> Result<u64, KeyError> {
    Ok(size::parse(value)?)
}
