//! A setting of the host that is another one for a while.

use std::fs;
use std::path::{Path, PathBuf};

use super::{SwapError, undone};
use crate::bench::host::in_brackets;

/// The setting has another value until this is dropped.
#[derive(Debug)]
pub(in crate::bench) struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Writes `value` to the file `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub(in crate::bench) fn change(path: &Path, value: &str) -> Result<Self, SwapError> {
        let text = fs::read_to_string(path).map_err(SwapError::setting(path))?;
        // Where the choices are listed, the chosen one is in brackets.
        let before = match in_brackets(&text) {
            "" => text.trim(),
            chosen => chosen,
        };
        let setting = Self {
            path: path.to_owned(),
            before: before.to_owned(),
        };
        fs::write(path, value).map_err(SwapError::setting(path))?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        undone(fs::write(&self.path, &self.before).map_err(SwapError::setting(&self.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_what_it_was_when_the_change_is_dropped() {
        let name = format!("gmem-setting-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        for (text, before) in [("3\n", "3"), ("always [madvise] never\n", "madvise")] {
            fs::write(&path, text).unwrap();
            let change = Setting::change(&path, "0").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "0");
            drop(change);
            assert_eq!(fs::read_to_string(&path).unwrap(), before);
        }
        fs::remove_file(&path).unwrap();
        let error = Setting::change(&path, "0").unwrap_err().to_string();
        assert!(error.contains("gmem-setting"), "{error}");
    }
}
