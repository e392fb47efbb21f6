//! Running the binary as a user would, with a limit on its time.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{env, fs, mem, process};

/// How long a run may take before the test gives up and kills it.
const LIMIT: Duration = Duration::from_secs(120);

/// Fails the test, with the reason, where the machine cannot run microVMs.
pub fn require_kvm() {
    if let Err(error) = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        panic!("this test runs a microVM and needs a usable /dev/kvm: {error}");
    }
}

/// A directory of the test's own, removed at its end.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("gmem-test-{}-{number}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Names of what is in it, sorted.
    pub fn listing(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Writes a file into it; returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// The exit code; a run that was killed by a signal fails the test.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("no exit code: {self:?}"))
    }

    /// Checks exit code and message of a run that did not succeed: `needles` are all in the first line of
    /// stderr, and nothing looks like a panic.
    pub fn expect_failure(&self, code: i32, needles: &[&str]) {
        assert_eq!(self.code(), code, "{self:?}");
        let line = self.stderr.lines().next().unwrap_or_default();
        for needle in needles {
            assert!(line.contains(needle), "no '{needle}' in: {self:?}");
        }
        assert!(!self.stderr.contains("panicked at"), "{self:?}");
        assert!(!self.stderr.contains("RUST_BACKTRACE"), "{self:?}");
    }
}

/// A run that may still go on. One that the test forgets, because it failed, is killed.
pub struct Running {
    child: Child,
    output: Option<[JoinHandle<String>; 2]>,
}

impl Running {
    /// Starts the binary with `args`.
    pub fn start(args: &[&str]) -> Self {
        Self::start_command(command(args), collect)
    }

    /// Starts what [`command`] made.
    pub fn spawn(command: Command) -> Self {
        Self::start_command(command, collect)
    }

    /// The same, but nobody reads its stdout: the pipe stays open, and full.
    pub fn start_unread(args: &[&str]) -> Self {
        Self::start_command(command(args), |stdout| {
            // Kept open beyond the run: a closed pipe would be an error instead of a wait.
            mem::forget(stdout);
            thread::spawn(String::new)
        })
    }

    fn start_command(
        mut command: Command,
        reader: impl Fn(ChildStdout) -> JoinHandle<String>,
    ) -> Self {
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("gmem cannot be started as this test needs it: {error}; {command:?}")
        });
        let stdout = reader(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self {
            child,
            output: Some([stdout, stderr]),
        }
    }

    /// The process's number.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// Waits for the end; a run that takes too long is killed and fails the test, and so does one that
    /// leaves a process behind.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("gmem did not end within {LIMIT:?}: {:?}", self.output());
            }
            thread::sleep(Duration::from_millis(2));
        };
        let [stdout, stderr] = self.output();
        // SAFETY: signal 0 only asks whether the child's process group has members.
        let left = unsafe { libc::kill(-self.pid(), 0) } == 0;
        assert!(!left, "a process is left behind");
        Finished {
            status,
            stdout,
            stderr,
        }
    }

    fn output(&mut self) -> [String; 2] {
        let output = self.output.take().expect("taken once, at the end");
        output.map(|reader| reader.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary with `args`, in a process group of its own.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmem"));
    command.args(args);
    prepared(command)
}

/// `command`, which becomes the binary, in a process group of its own, its output to be read.
pub fn prepared(mut command: Command) -> Command {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

/// Runs the binary with `args` to its end.
pub fn run(args: &[&str]) -> Finished {
    Running::start(args).finish()
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
