//! The process's exit codes: part of the command line's contract.

/// How `gmem` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The guest reported success.
    Success = 0,
    /// The guest failed, was killed, or could not be run to its end.
    Failed = 1,
    /// The command line or the configuration is wrong. The argument parser uses the same number.
    Usage = 2,
    /// This host lacks something that a microVM needs.
    HostLacks = 3,
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> Self {
        code as i32
    }
}
