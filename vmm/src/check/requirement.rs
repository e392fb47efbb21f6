//! One thing that a host has or lacks.

/// Something that microVMs need or profit from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Its short name, of lower-case letters, digits and dashes.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Whether this host has it.
    pub status: Status,
}

/// Whether a host has a [`Requirement`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is there; what exactly.
    Found(String),
    /// It is not there, and microVMs cannot run.
    Missing {
        /// What is there instead.
        found: String,
        /// How to get it.
        remedy: String,
    },
    /// It is not there, and microVMs run without, less well.
    Optional {
        /// What is there instead.
        found: String,
        /// How to get it.
        remedy: String,
    },
}

impl Requirement {
    /// Something that is there.
    pub(super) fn found(
        name: &'static str,
        purpose: &'static str,
        found: impl Into<String>,
    ) -> Self {
        let status = Status::Found(found.into());
        Self {
            name,
            purpose,
            status,
        }
    }

    /// Something that is not there, without which nothing runs.
    pub(super) fn missing(
        name: &'static str,
        purpose: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let status = Status::Missing {
            found: found.into(),
            remedy: remedy.into(),
        };
        Self {
            name,
            purpose,
            status,
        }
    }

    /// Something that is not there, and can be done without.
    pub(super) fn optional(
        name: &'static str,
        purpose: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let status = Status::Optional {
            found: found.into(),
            remedy: remedy.into(),
        };
        Self {
            name,
            purpose,
            status,
        }
    }

    /// Whether microVMs can run as far as this is concerned.
    pub fn is_met(&self) -> bool {
        !matches!(self.status, Status::Missing { .. })
    }
}
