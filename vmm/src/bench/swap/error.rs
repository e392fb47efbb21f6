//! Why there is no swap to compare with.

use std::io;
use std::path::{Path, PathBuf};

/// The host does not give what the comparison needs. Displayed as one line.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// Something is missing.
    #[error("comparing with swap needs {what}: {found}; {remedy}, or leave --against out")]
    Lacks {
        /// What.
        what: &'static str,
        /// What is there instead.
        found: String,
        /// How to get it.
        remedy: &'static str,
    },
    /// There is swap already that nothing can come before.
    #[error(
        "swap is active on {0} with the highest priority there is, so that pages would go there and not only to the device that is measured; swapoff it first, or leave --against out"
    )]
    OtherSwap(String),
    /// A setting of the host.
    #[error("{}: {source}; the comparison with swap needs it: run as root where it is writable", path.display())]
    Setting {
        /// Its file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A tool of the system's.
    #[error("`{command}` failed: {found}; the comparison with swap needs it (package util-linux)")]
    Tool {
        /// With its arguments.
        command: String,
        /// How it ended, and what it said.
        found: String,
    },
}

impl SwapError {
    /// What the host said of `path`.
    pub(in crate::bench) fn setting(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Setting {
            path: path.to_owned(),
            source,
        }
    }
}
