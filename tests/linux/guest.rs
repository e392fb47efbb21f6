//! A microVM with the Linux image, its console in both directions, and its control socket.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gmem::{TempDir, command, require_kvm, run};

/// How long a guest may take for all of a test, on a busy host without VMX and SVM.
const LIMIT: Duration = Duration::from_secs(540);

/// One guest at a time: two would each take twice as long.
static TURN: Mutex<()> = Mutex::new(());

/// What the guest has written so far.
#[derive(Default)]
struct Console {
    text: Mutex<String>,
    more: Condvar,
}

/// A running guest. One that the test forgets, because it failed, is killed.
pub struct Guest {
    child: Child,
    stdin: Option<ChildStdin>,
    console: Arc<Console>,
    readers: Vec<JoinHandle<String>>,
    deadline: Instant,
    pub dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// A guest that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub console: String,
    pub stderr: String,
    pub report: Value,
}

impl Ended {
    /// What `device` says in the report that it counted as `counter`.
    pub fn counted(&self, device: &str, counter: &str) -> u64 {
        let devices = self.report["devices"].as_array().unwrap();
        let found = devices.iter().find(|entry| entry["name"] == device);
        let found = found.unwrap_or_else(|| panic!("no {device} among {devices:?}"));
        assert!(found.get("driver_error").is_none(), "{found}");
        found["counters"][counter].as_u64().unwrap()
    }
}

/// A file of an image of Linux: `linux`, or `linux-smp`.
fn image(name: &str, file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../target/images")
        .join(name)
        .join(file);
    assert!(
        path.exists(),
        "{} is missing: this test boots Linux, which `images/linux/build --all` makes",
        path.display()
    );
    path.to_str().unwrap().to_owned()
}

impl Guest {
    /// Boots Linux with these options of `gmem run`; `words` are added to its command line. Options may name files in `dir`.
    pub fn boot_in(dir: TempDir, options: &[&str], words: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        require_kvm();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let console = if options.contains(&"virtio") {
            "hvc0"
        } else {
            "ttyS0"
        };
        let line = format!(
            "console={console} reboot=k panic=-1 quiet rootfstype=ramfs retain_initrd {words}"
        );
        let linux = match options.contains(&"--cpus") {
            true => "linux-smp",
            false => "linux",
        };
        let programs = match words.contains("gmem.test") {
            true => "initramfs-tools.cpio",
            false => "initramfs.cpio",
        };
        let (kernel, initrd) = (image(linux, "vmlinux"), image(linux, programs));
        let (socket, report) = (path("control.sock"), path("report.json"));
        let mut args = vec!["run", "--kernel", &kernel, "--initrd", &initrd];
        args.extend([
            "--api-sock",
            &socket,
            "--report",
            &report,
            "--cmdline",
            &line,
        ]);
        args.extend(options);
        let mut child = command(&args).stdin(Stdio::piped()).spawn().unwrap();
        let console = Arc::<Console>::default();
        let readers = vec![
            follow(child.stdout.take().unwrap(), Some(Arc::clone(&console))),
            follow(child.stderr.take().unwrap(), None),
        ];
        Self {
            stdin: child.stdin.take(),
            child,
            console,
            readers,
            deadline: Instant::now() + LIMIT,
            dir,
            _turn: turn,
        }
    }

    /// As [`Self::boot_in`], in a directory of its own.
    pub fn boot(options: &[&str], words: &str) -> Self {
        Self::boot_in(TempDir::new(), options, words)
    }

    /// Waits until the guest has written `text`.
    pub fn wait_for(&self, text: &str) {
        let mut written = self.console.text.lock().unwrap();
        while !written.contains(text) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no '{text}' within {LIMIT:?}: {written}");
            let ended = written.contains("gmem: succeeded") || written.contains("gmem: failed");
            assert!(!ended, "the guest ended without '{text}': {written}");
            let pause = left.min(Duration::from_millis(500));
            written = self.console.more.wait_timeout(written, pause).unwrap().0;
        }
    }

    /// Types on the guest's console.
    pub fn type_in(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Runs `gmem ctl`, which must succeed; returns what it printed.
    pub fn ctl(&self, args: &[&str]) -> String {
        let socket = self.dir.path().join("control.sock");
        let mut all = vec!["ctl", "--api-sock", socket.to_str().unwrap()];
        all.extend(args);
        let finished = run(&all);
        assert_eq!(finished.code(), 0, "{finished:?}");
        finished.stdout
    }

    /// The answer to `status`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ctl(&["status", "--json"])).unwrap()
    }

    /// Bytes of host RAM that the guest uses.
    pub fn host_used(&self) -> u64 {
        self.status()["memory"]["tiers"][0]["used_bytes"]
            .as_u64()
            .unwrap()
    }

    /// The monitor's process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for the end, whatever it is.
    pub fn end(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > self.deadline {
                let _ = self.child.kill();
                panic!(
                    "no end within {LIMIT:?}: {}",
                    self.console.text.lock().unwrap()
                );
            }
            thread::sleep(Duration::from_millis(20));
        };
        let mut texts = self.readers.drain(..).map(|reader| reader.join().unwrap());
        let (console, stderr) = (texts.next().unwrap(), texts.next().unwrap());
        drop(texts);
        let report = std::fs::read(self.dir.path().join("report.json")).unwrap();
        Ended {
            code: status.code(),
            console,
            stderr,
            report: serde_json::from_slice(&report).unwrap(),
        }
    }

    /// Waits for a good end, after these tests of the image.
    pub fn end_well(self, tests: &[&str]) -> Ended {
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        assert_eq!(ended.report["outcome"], "success", "{ended:#?}");
        for test in tests {
            let said = format!("gmem-test: {test} ok");
            assert!(ended.console.contains(&said), "no '{said}': {ended:#?}");
        }
        ended
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // After the end both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads `from` to its end, and tells `console` of each piece.
fn follow(
    mut from: impl Read + Send + 'static,
    console: Option<Arc<Console>>,
) -> JoinHandle<String> {
    thread::spawn(move || {
        let (mut all, mut piece) = (String::new(), [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..count]);
            all.push_str(&text);
            if let Some(console) = &console {
                console.text.lock().unwrap().push_str(&text);
                console.more.notify_all();
            }
        }
        all
    })
}
