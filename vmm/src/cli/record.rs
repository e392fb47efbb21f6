//! `--record FILE[,window=N]`

use std::path::PathBuf;

use crate::memory::recorder::LEAST_WINDOW;

/// Pages that are let in at once, if nobody says otherwise.
const WINDOW: u32 = 64;

/// Where touches are recorded, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordArg {
    /// The file.
    pub path: PathBuf,
    /// Pages that are let in at once.
    pub window: u32,
}

/// What is wrong with `--record`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordArgError {
    /// No file.
    #[error("no file is named; give --record FILE[,window=N]")]
    NoFile,
    /// No window.
    #[error("window={0} does not fit; give a number of pages from {LEAST_WINDOW} on")]
    Window(String),
}

/// Reads the option's value.
pub fn parse(text: &str) -> Result<RecordArg, RecordArgError> {
    // A path may have commas of its own.
    let (path, window) = match text.rsplit_once(",window=") {
        None => (text, WINDOW),
        Some((path, number)) => match number.parse() {
            Ok(window) if window >= LEAST_WINDOW => (path, window),
            _ => return Err(RecordArgError::Window(number.into())),
        },
    };
    if path.is_empty() {
        return Err(RecordArgError::NoFile);
    }
    Ok(RecordArg {
        path: path.into(),
        window,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stands_behind_the_last_comma() {
        let record = |path: &str, window| {
            let path = path.into();
            Ok(RecordArg { path, window })
        };
        assert_eq!(parse("a.trace"), record("a.trace", WINDOW));
        assert_eq!(parse("a,b,window=200"), record("a,b", 200));
        assert_eq!(parse("a,window=7,window=32"), record("a,window=7", 32));
    }

    #[test]
    fn no_file_and_windows_that_do_not_fit_are_errors() {
        assert_eq!(parse(""), Err(RecordArgError::NoFile));
        assert_eq!(parse(",window=64"), Err(RecordArgError::NoFile));
        for number in ["31", "", "x", "-1", "4294967296"] {
            let found = parse(&format!("a,window={number}"));
            assert_eq!(found, Err(RecordArgError::Window(number.into())));
        }
    }
}
