//! The files that a measurement's result goes to.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::run::Failure;
use crate::exit_code::ExitCode;

/// Where the result goes. Opened before the measurement, so that a wrong path is known at once; removed again
/// where there is nothing to write.
pub(super) struct ResultFile(Option<(PathBuf, fs::File)>);

impl ResultFile {
    pub(super) fn create(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        match fs::File::create(&path) {
            Ok(file) => Ok(Self(Some((path, file)))),
            Err(error) => Err(Failure::new(ExitCode::Usage, unwritable(&path, &error))),
        }
    }

    /// Writes `measured` as JSON.
    pub(super) fn write(self, measured: &impl Serialize) -> Result<(), Failure> {
        let json = serde_json::to_string(measured)
            .map_err(|error| Failure::new(ExitCode::Failed, error))?;
        self.write_text(&(json + "\n"))
    }

    pub(super) fn write_text(mut self, text: &str) -> Result<(), Failure> {
        let Some((path, mut file)) = self.0.take() else {
            return Ok(());
        };
        let written = file.write_all(text.as_bytes());
        written.map_err(|error| Failure::new(ExitCode::Failed, unwritable(&path, &error)))
    }
}

impl Drop for ResultFile {
    fn drop(&mut self) {
        if let Some((path, file)) = self.0.take()
            && file.metadata().is_ok_and(|metadata| metadata.is_file())
        {
            // Nothing to be done where it fails: an empty file stays.
            let _ = fs::remove_file(path);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> String {
    format!(
        "result {} cannot be written: {error}; give --json or --plot a file in a writable directory",
        path.display()
    )
}
