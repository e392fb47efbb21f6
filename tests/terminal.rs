//! A kernel of the user's and the user: what is typed and shown, and the end of a run whatever its outputs do.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::gmem::{TempDir, command, require_kvm};
use support::tiny_elf::{TinyElf, code};

/// How long the end of a run may take.
const SOON: Duration = Duration::from_secs(2);
/// How long anything else may take, on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// A run. One that the test forgets, because it failed, is killed.
struct Run(Child);

impl Run {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }
}

impl Deref for Run {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Run {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // After the end both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A kernel in a file of `dir`.
fn kernel(dir: &TempDir, code: &[Vec<u8>]) -> String {
    let file = dir.file("kernel", &TinyElf::new(&code.concat()).build());
    file.to_str().unwrap().to_owned()
}

/// Machine code: end of line after end of line on the console.
fn flood() -> Vec<u8> {
    // mov $0x3f8, %edx; again: mov $'\n', %al; out %al, %dx; jmp again
    vec![0xba, 0xf8, 0x03, 0, 0, 0xb0, 0x0a, 0xee, 0xeb, 0xfb]
}

/// What is read from `from`, piece by piece.
fn follow(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, pieces) = channel();
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            if sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

/// Waits until `text` has come.
fn wait_for(pieces: &Receiver<Vec<u8>>, text: &str) {
    let deadline = Instant::now() + LIMIT;
    let mut all = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let piece = pieces.recv_timeout(left);
        let so_far = String::from_utf8_lossy(&all).into_owned();
        all.extend(piece.unwrap_or_else(|_| panic!("no '{text}' in: {so_far}")));
        if String::from_utf8_lossy(&all).contains(text) {
            return;
        }
    }
}

/// Waits for the end, which must come soon; the exit code.
fn end(child: &mut Child) -> Option<i32> {
    let asked = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if asked.elapsed() > SOON {
            let _ = child.kill();
            panic!("no end within {SOON:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until nothing more comes into a pipe, whose writers are then stuck.
fn wait_until_full(pipe: &impl AsRawFd) {
    let (deadline, mut before) = (Instant::now() + LIMIT, -1);
    loop {
        let mut waiting: libc::c_int = 0;
        // SAFETY: this ioctl writes an int.
        unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &mut waiting) };
        if waiting == before && waiting > 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting} bytes are in the pipe");
        before = waiting;
        thread::sleep(Duration::from_millis(300));
    }
}

fn interrupt(child: &Child) {
    signal(child, libc::SIGINT);
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the child has not been waited for, so the number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn a_prompt_is_seen_while_its_line_has_no_end() {
    require_kvm();
    let dir = TempDir::new();
    let kernel = kernel(&dir, &[code::print("login: "), code::halt()]);
    let mut child = Run::start(&mut command(&[
        "run", "--kernel", &kernel, "--memory", "16M",
    ]));
    let shown = follow(child.stdout.take().unwrap());
    wait_for(&shown, "login: ");
    interrupt(&child);
    assert_eq!(end(&mut child), Some(1));
}

#[test]
fn a_run_ends_at_once_though_nobody_reads_its_output_while_somebody_types() {
    require_kvm();
    let dir = TempDir::new();
    let kernel = kernel(&dir, &[flood()]);
    let [control, vsock] = ["control", "vsock"].map(|name| dir.path().join(name));
    let option = format!("cid=3,uds={}", vsock.display());
    let mut command = command(&[
        "run",
        "--kernel",
        &kernel,
        "--memory",
        "16M",
        "--vsock",
        &option,
        "--api-sock",
        control.to_str().unwrap(),
    ]);
    command.stdin(File::open("/dev/zero").unwrap());
    let mut child = Run::start(&mut command);
    let stdout = child.stdout.take().unwrap();
    wait_until_full(&stdout);
    assert!(control.exists() && vsock.exists());
    interrupt(&child);
    assert_eq!(end(&mut child), Some(1));
    assert_eq!(dir.listing(), ["kernel"], "sockets are left behind");
}

/// A terminal: our side, and theirs.
fn terminal() -> [File; 2] {
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: the descriptors are written to; nothing else is given or asked for.
    let rc = unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
    assert_eq!(rc, 0);
    // SAFETY: the descriptors are new, and nobody else's.
    [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Flags of input, output and line, and the character that ends a line early.
fn modes(terminal: &File) -> [u32; 4] {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut modes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is writable.
    let rc = unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut modes) };
    assert_eq!(rc, 0);
    let least = modes.c_cc[libc::VMIN].into();
    [modes.c_iflag, modes.c_oflag, modes.c_lflag, least]
}

#[test]
fn ctrl_a_x_ends_the_run_of_a_guest_that_reads_nothing_and_the_terminal_is_as_before() {
    require_kvm();
    let dir = TempDir::new();
    let kernel = kernel(&dir, &[code::print("ready> "), code::halt()]);
    let [mut ours, theirs] = terminal();
    let before = modes(&theirs);
    let mut command = Command::new(env!("CARGO_BIN_EXE_gmem"));
    command.args(["run", "--kernel", &kernel, "--memory", "16M"]);
    command
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs.try_clone().unwrap())
        .stderr(theirs.try_clone().unwrap());
    // SAFETY: both calls are allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut child = Run::start(&mut command);
    let shown = follow(ours.try_clone().unwrap());
    wait_for(&shown, "ready> ");
    let raw = modes(&theirs);
    assert_ne!(raw, before);
    assert_eq!(
        raw[0] & (libc::IXON | libc::ICRNL),
        0,
        "all keys are the guest's"
    );
    // More than the UART holds; Ctrl-S and Ctrl-C are keys like others.
    ours.write_all(b"\x13\x03").unwrap();
    ours.write_all(&[b'k'; 300]).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "Ctrl-C is the guest's");
    ours.write_all(b"\x01x").unwrap();
    assert_eq!(end(&mut child), Some(1));
    assert_eq!(modes(&theirs), before);
}

#[test]
fn the_end_of_the_terminal_is_an_orderly_one_unless_it_is_to_be_outlived() {
    require_kvm();
    let dir = TempDir::new();
    let kernel = kernel(&dir, &[code::print("up\n"), code::halt()]);
    let socket = dir.path().join("control");
    let socket = socket.to_str().unwrap();
    let start = |ignored: bool| {
        let mut command = command(&["run", "--kernel", &kernel, "--api-sock", socket]);
        // SAFETY: the call is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let how = if ignored {
                    libc::SIG_IGN
                } else {
                    libc::SIG_DFL
                };
                libc::signal(libc::SIGHUP, how);
                Ok(())
            });
        }
        let mut child = Run::start(&mut command);
        wait_for(&follow(child.stdout.take().unwrap()), "up");
        signal(&child, libc::SIGHUP);
        child
    };
    let mut child = start(false);
    assert_eq!(end(&mut child), Some(1));
    assert_eq!(dir.listing(), ["kernel"], "the socket is left behind");
    let mut child = start(true);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None, "by nohup it goes on");
    interrupt(&child);
    assert_eq!(end(&mut child), Some(1));
}

#[test]
fn a_run_ends_at_once_though_nobody_reads_what_it_says_either() {
    require_kvm();
    let dir = TempDir::new();
    let kernel = kernel(&dir, &[flood()]);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = command(&["run", "--kernel", &kernel, "--memory", "16M"]);
    command.args(["--tier", "host:8M", "--tier", "hbm:16M"]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = Run::start(&mut command);
    drop(command);
    wait_until_full(&reader);
    // Long enough for a line about its progress.
    thread::sleep(Duration::from_millis(2500));
    interrupt(&child);
    assert_eq!(end(&mut child), Some(1));
}
