//! The file that a measurement's result goes to.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::run::Failure;
use crate::exit_code::ExitCode;

/// Where the JSON goes. Opened before the measurement, so that a wrong path is known at once; removed again
/// where there is nothing to write.
pub(super) struct JsonFile(Option<(PathBuf, fs::File)>);

impl JsonFile {
    pub(super) fn create(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        match fs::File::create(&path) {
            Ok(file) => Ok(Self(Some((path, file)))),
            Err(error) => Err(Failure::new(ExitCode::Usage, unwritable(&path, &error))),
        }
    }

    pub(super) fn write(mut self, measured: &impl Serialize) -> Result<(), Failure> {
        let Some((path, mut file)) = self.0.take() else {
            return Ok(());
        };
        let written = serde_json::to_vec(measured)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
        written.map_err(|error| Failure::new(ExitCode::Failed, unwritable(&path, &error)))
    }
}

impl Drop for JsonFile {
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
        "result {} cannot be written: {error}; give --json a file in a writable directory",
        path.display()
    )
}
