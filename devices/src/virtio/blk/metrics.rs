//! What the device counts.

use serde::Serialize;

use super::operation::Kind;
use super::request::Status;

/// Counters since the device was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metrics {
    /// How the file is reached: `io_uring` or `blocking`.
    pub engine: &'static str,
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Ranges that were discarded or zeroed.
    pub cleared: u64,
    /// Bytes in these ranges.
    pub cleared_bytes: u64,
    /// Requests that failed: beyond the disk's end, on a read-only disk, or by the host.
    pub failures: u64,
    /// Requests of kinds that the device does not know.
    pub unsupported: u64,
    /// Most requests under way at once.
    pub most_under_way: u64,
    /// Times that the rate limit made the driver wait.
    pub held_back: u64,
}

impl Metrics {
    /// A request is answered.
    pub(super) fn count(&mut self, kind: Option<Kind>, bytes: u64, status: Status) {
        let (count, sum) = match (status, kind) {
            (Status::Failed, _) => (&mut self.failures, None),
            (Status::Unsupported, _) => (&mut self.unsupported, None),
            (Status::Ok, Some(Kind::Read)) => (&mut self.reads, Some(&mut self.read_bytes)),
            (Status::Ok, Some(Kind::Write)) => (&mut self.writes, Some(&mut self.written_bytes)),
            (Status::Ok, Some(Kind::Punch | Kind::Zero)) => {
                (&mut self.cleared, Some(&mut self.cleared_bytes))
            }
            (Status::Ok, Some(Kind::Flush)) => (&mut self.flushes, None),
            (Status::Ok, None) => return,
        };
        *count += 1;
        if let Some(sum) = sum {
            *sum += bytes;
        }
    }
}
