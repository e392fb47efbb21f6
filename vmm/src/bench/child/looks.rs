//! What can be seen of a run from outside while it goes on.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// How long the memory system has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// How a run stands, as its host sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Seen {
    /// Bytes of the group that the kernel has swapped.
    pub(in crate::bench) swapped: f64,
    /// CPU seconds of threads that the guest waits for: vCPUs and fault handlers.
    pub(in crate::bench) cpu_waited: f64,
    /// CPU seconds of all threads.
    pub(in crate::bench) cpu_total: f64,
}

impl Seen {
    /// Of process `pid`, of whose group so many bytes are swapped.
    pub(super) fn of(pid: u32, swapped: u64) -> io::Result<Self> {
        let mut seen = Self {
            swapped: swapped as f64,
            ..Self::default()
        };
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            let name = fs::read_to_string(thread.join("comm"))?;
            let times = fs::read_to_string(thread.join("schedstat"))?;
            let nanoseconds = times.split(' ').next().and_then(|word| word.parse().ok());
            let seconds = nanoseconds.unwrap_or(0.0) / 1e9;
            seen.cpu_total += seconds;
            if name.starts_with("vcpu") || name.starts_with("fault") {
                seen.cpu_waited += seconds;
            }
        }
        Ok(seen)
    }
}

/// How it stands, as it says itself.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::bench) struct Told {
    /// Faults that reached the memory system.
    pub(in crate::bench) faults: f64,
    /// Pages that went from the host tier to one below it.
    pub(in crate::bench) evicted: f64,
}

/// What was found when, in seconds since the process was started.
#[derive(Debug)]
pub(super) struct Trace<T>(Vec<(f64, T)>);

impl<T: Copy + Default> Trace<T> {
    /// From nothing on.
    pub(super) fn new() -> Self {
        Self(vec![(0.0, T::default())])
    }

    /// `time` is later than all before.
    pub(super) fn add(&mut self, time: f64, found: T) {
        self.0.push((time, found));
    }

    /// How much of `what` there was at `time`; between two findings it is taken to grow evenly.
    pub(super) fn at(&self, time: f64, what: fn(&T) -> f64) -> f64 {
        let after = self.0.partition_point(|(at, _)| *at < time);
        let (low, before) = &self.0[after.saturating_sub(1)];
        let (high, then) = &self.0[after.min(self.0.len() - 1)];
        let share = match high > low {
            true => (time - low) / (high - low),
            false => 0.0,
        };
        what(before) + share * (what(then) - what(before))
    }
}

/// A connection to the control socket, once there is one.
#[derive(Default)]
pub(in crate::bench) struct Asking(Option<BufReader<UnixStream>>);

impl Asking {
    /// How things stand; `None` if there is no answer in time.
    pub(in crate::bench) fn ask(&mut self, socket: &Path) -> Option<Told> {
        let status = self.status(socket)?;
        Some(Told {
            faults: status["faults"]["cpu"]["count"].as_f64().unwrap_or(0.0),
            evicted: evicted(&status["migrations"]),
        })
    }

    /// The same, in full.
    pub(in crate::bench) fn status(&mut self, socket: &Path) -> Option<Value> {
        let stream = match self.0.take() {
            Some(stream) => stream,
            None => BufReader::new(UnixStream::connect(socket).ok()?),
        };
        let stream = self.0.insert(stream);
        stream.get_ref().set_read_timeout(Some(PATIENCE)).ok()?;
        let answer = stream
            .get_mut()
            .write_all(b"{\"command\":\"status\"}\n")
            .and_then(|()| {
                let mut line = String::new();
                stream.read_line(&mut line)?;
                Ok(serde_json::from_str::<Value>(&line)?)
            });
        if answer.is_err() {
            // What is left of a late answer must not be taken for the next one.
            self.0 = None;
        }
        answer.ok()
    }
}

/// Pages that have left the host tier for one below it.
fn evicted(migrations: &Value) -> f64 {
    let flows = migrations.as_array().map_or(&[][..], Vec::as_slice);
    let out = flows
        .iter()
        .filter(|flow| flow["from"] == "host" && flow["to"] != "staged" && flow["to"] != "zero");
    out.filter_map(|flow| flow["pages"].as_f64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_findings_it_grows_evenly() {
        let trace = Trace(vec![(0.0, 0.0), (1.0, 10.0), (3.0, 20.0)]);
        for (time, expected) in [
            (0.0, 0.0),
            (0.5, 5.0),
            (1.0, 10.0),
            (2.0, 15.0),
            (9.0, 20.0),
        ] {
            assert_eq!(trace.at(time, |value| *value), expected, "{time}");
        }
        assert_eq!(Trace::<f64>::new().at(1.0, |value| *value), 0.0);
    }

    #[test]
    fn what_is_evicted_leaves_the_host_for_a_tier() {
        let flows = serde_json::json!([
            {"from": "host", "to": "staged", "pages": 9},
            {"from": "host", "to": "zero", "pages": 9},
            {"from": "zip", "to": "host", "pages": 9},
            {"from": "host", "to": "zip", "pages": 4},
            {"from": "host", "to": "file", "pages": 3},
        ]);
        assert_eq!(evicted(&flows), 7.0);
        assert_eq!(evicted(&Value::Null), 0.0);
    }
}
