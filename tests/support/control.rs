//! A microVM with a control socket, and a client of it that is not `gmem ctl`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::{Value, json};

use super::gmem::{Finished, Running, TempDir, require_kvm, run};

/// Far more than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running microVM that listens.
pub struct Controlled {
    // The first to be dropped: what still runs is ended before its files go.
    pub running: Running,
    pub dir: TempDir,
}

impl Controlled {
    /// `gmem run` with `options`, a control socket and a report; returns when the socket is there.
    pub fn start(options: &[&str]) -> Self {
        require_kvm();
        let dir = TempDir::new();
        let (socket, report) = (socket(&dir), dir.path().join("report.json"));
        let mut args = vec!["run", "--api-sock", socket.to_str().unwrap()];
        args.extend(["--report", report.to_str().unwrap()]);
        args.extend(options);
        let running = Running::start(&args);
        until("the socket is there", || socket.exists().then_some(()));
        Self { running, dir }
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// A connection to it.
    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// Runs `gmem ctl` to its end.
    pub fn ctl(&self, args: &[&str]) -> Finished {
        let socket = self.socket();
        let mut all = vec!["ctl", "--api-sock", socket.to_str().unwrap()];
        all.extend(args);
        run(&all)
    }

    /// RssAnon of the process, bytes.
    pub fn rss_anon(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.running.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kib = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Waits for the end of the run, which must leave no socket behind; what it said, and its report.
    pub fn finish(self) -> (Finished, Value) {
        let finished = self.running.finish();
        assert!(
            !socket(&self.dir).exists(),
            "the socket stays: {finished:?}"
        );
        let report = fs::read(self.dir.path().join("report.json")).expect("a report is written");
        (finished, serde_json::from_slice(&report).unwrap())
    }

    /// Waits for a good end: exit code 0, all that was written found again.
    pub fn finish_verified(self) -> (Finished, Value) {
        let (finished, report) = self.finish();
        assert_eq!(finished.code(), 0, "{finished:?}");
        assert_eq!(report["outcome"], "success", "{report}");
        assert_eq!(report["integrity"]["mismatched_bytes"], 0, "{report}");
        assert!(report["integrity"]["verified_bytes"].as_u64() > Some(0));
        (finished, report)
    }
}

fn socket(dir: &TempDir) -> PathBuf {
    dir.path().join("api.sock")
}

/// A client that speaks the protocol as it is documented.
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends bytes as they are; `false` if the other side has closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.get_mut().write_all(bytes).is_ok()
    }

    /// The next answer; `None` if the connection is over.
    pub fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(count) if count > 0 => Some(serde_json::from_str(&line).unwrap()),
            _ => None,
        }
    }

    /// The answer to `request`; `None` if the connection is over.
    pub fn try_ask(&mut self, request: Value) -> Option<Value> {
        let sent = self.send(format!("{request}\n").as_bytes());
        if sent { self.receive() } else { None }
    }

    /// The answer to `request`, which must be carried out.
    pub fn ask(&mut self, request: Value) -> Value {
        let answer = self.try_ask(request).expect("an answer");
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    /// How things stand.
    pub fn status(&mut self) -> Value {
        self.ask(json!({"command": "status"}))
    }
}

/// Waits until `look` finds something.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// `options`, then the workload.
pub fn with<'a>(options: &[&'a str], workload: &'a str) -> Vec<&'a str> {
    [options, &[workload]].concat()
}

/// The request for a budget.
pub fn budget(bytes: u64) -> Value {
    json!({"command": "budget", "bytes": bytes})
}
