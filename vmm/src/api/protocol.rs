//! What can be asked of a running microVM, and what it answers.
//!
//! A request is one line, a JSON object with the member `command`; so is its answer, with the member `ok`.
//! Where `ok` is true, the other members are those of the answer's structure below; where it is false, there
//! is `error`: one sentence with cause and remedy. Requests of one connection are answered in their order.

use gmem_core::page::PAGE_SIZE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kvm::control::Activity;
use crate::report::{Device, Faults, Memory, Migration};

/// Bytes that a request may have, with its end of line.
pub const MAX_LINE: usize = 4096;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How do things stand? Answered by [`Status`].
    Status {},
    /// Change the host budget. Answered by [`BudgetAnswer`] once the new budget is in force: from then on no
    /// frame is added beyond it, and what exists beyond it is evicted in the background.
    Budget {
        /// How much host RAM the guest may have, bytes: a multiple of 4096.
        bytes: u64,
    },
    /// Ask the guest for a balloon: memory that it gives back. Answered by [`BalloonAnswer`] at once; the guest gives
    /// what it can spare, when it can.
    Balloon {
        /// How much the guest is to do without, bytes: a multiple of 4096.
        bytes: u64,
    },
    /// Ask the guest to have so much memory plugged in. Answered by [`PluggedAnswer`] at once; the guest plugs and
    /// unplugs what it can, when it can.
    Plug {
        /// Beyond what it started with, bytes: a multiple of 2 MiB.
        bytes: u64,
    },
    /// Let no vCPU run until `resume`. Answered by [`ActivityAnswer`] when all stand still.
    Pause {},
    /// Take `pause` back. Answered by [`ActivityAnswer`].
    Resume {},
    /// End the run, which then counts as killed. The answer has no members of its own; the end follows it.
    Stop {},
}

/// Why a line is not a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON, or not of this shape.
    #[error(
        "not a request: {0}; send one JSON object a line, like {{\"command\":\"status\"}}; the commands are \
         status, budget (with bytes), balloon (with bytes), plug (with bytes), pause, resume and \
         stop"
    )]
    Shape(#[from] serde_json::Error),
    /// A budget that is not whole pages.
    #[error("a budget of {0} bytes is not a multiple of 4096; give whole pages")]
    NotPages(u64),
    /// Too long.
    #[error("the request is longer than {MAX_LINE} bytes; send one JSON object a line")]
    TooLong,
}

impl Request {
    /// Reads a line.
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        match serde_json::from_slice(line)? {
            Self::Budget { bytes } if !bytes.is_multiple_of(PAGE_SIZE as u64) => {
                Err(RequestError::NotPages(bytes))
            }
            request => Ok(request),
        }
    }
}

/// How things stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// What the vCPUs do.
    pub state: Activity,
    /// Whether pages come and go; `false`: memory fits its budget and is plain.
    pub armed: bool,
    /// The host budget, bytes; null where there is none (`--tier none`).
    pub budget_bytes: Option<u64>,
    /// Accesses of the guest that wait because every tier is full.
    pub waiting: usize,
    /// The balloon, where there is one.
    #[serde(default)]
    pub balloon: Option<BalloonAnswer>,
    /// Memory that can be plugged, where there is any.
    #[serde(default)]
    pub plugged: Option<PluggedAnswer>,
    /// As in the report. The first tier is the host; its `used_bytes` are the frames that exist.
    pub memory: Memory,
    /// As in the report.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// As in the report.
    pub faults: Faults,
    /// As in the report.
    pub migrations: Vec<Migration>,
}

/// The budget was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetAnswer {
    /// The budget that is in force, bytes.
    pub budget_bytes: u64,
    /// Bytes of host RAM that guest and arena have at the moment.
    pub used_bytes: u64,
}

/// How a balloon stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonAnswer {
    /// What the guest was asked for, bytes.
    pub target_bytes: u64,
    /// What it has given, bytes.
    pub actual_bytes: u64,
}

/// How much memory is plugged in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluggedAnswer {
    /// What the guest was asked to have, bytes.
    pub requested_bytes: u64,
    /// What it has, bytes.
    pub plugged_bytes: u64,
}

/// The vCPUs were paused or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityAnswer {
    /// What they do now.
    pub state: Activity,
}

/// The line that says yes, with the members of `body`.
pub fn done(body: impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Done<T> {
        ok: bool,
        #[serde(flatten)]
        body: T,
    }
    match serde_json::to_vec(&Done { ok: true, body }) {
        Ok(answer) => line(answer),
        Err(error) => failed(&error),
    }
}

/// The line that says no.
pub fn failed(error: &impl std::fmt::Display) -> Vec<u8> {
    let answer: Value = json!({"ok": false, "error": error.to_string()});
    line(answer.to_string().into_bytes())
}

fn line(mut answer: Vec<u8>) -> Vec<u8> {
    answer.push(b'\n');
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_are_documented() {
        for (text, request) in [
            (r#"{"command":"status"}"#, Request::Status {}),
            (
                r#"{"command":"budget","bytes":4096}"#,
                Request::Budget { bytes: 4096 },
            ),
            (r#" {"command":"pause"} "#, Request::Pause {}),
            (r#"{"command":"resume"}"#, Request::Resume {}),
            (r#"{"command":"stop"}"#, Request::Stop {}),
        ] {
            assert_eq!(Request::parse(text.as_bytes()).unwrap(), request, "{text}");
            let written = serde_json::to_vec(&request).unwrap();
            assert_eq!(Request::parse(&written).unwrap(), request);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "status",
            "[]",
            "{}",
            r#"{"command":"reboot"}"#,
            r#"{"command":"status","bytes":1}"#,
            r#"{"command":"budget"}"#,
            r#"{"command":"budget","bytes":-4096}"#,
            r#"{"command":"budget","bytes":"64M"}"#,
            r#"{"command":"budget","bytes":4097}"#,
            r#"{"command":"budget","bytes":18446744073709551616}"#,
            r#"{"command":"status"}{"command":"stop"}"#,
        ] {
            assert!(Request::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = [b"{\"command\":".as_slice(), &[b'['; 4000]].concat();
        assert!(Request::parse(&deep).is_err());
        assert!(Request::parse(&[0xff, 0xfe, 0]).is_err());
    }

    #[test]
    fn an_answer_is_one_line_with_ok_beside_its_members() {
        let answer = done(BudgetAnswer {
            budget_bytes: 8192,
            used_bytes: 4096,
        });
        assert_eq!(
            answer,
            b"{\"ok\":true,\"budget_bytes\":8192,\"used_bytes\":4096}\n"
        );
        let no = failed(&"two\nlines \"quoted\"");
        assert_eq!(no.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let no: Value = serde_json::from_slice(&no).unwrap();
        assert_eq!(no, json!({"ok": false, "error": "two\nlines \"quoted\""}));
    }
}
