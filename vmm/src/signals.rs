//! SIGINT, SIGTERM and SIGHUP, taken in turn by the main thread instead of interrupting it.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// The signals that ask the monitor to end.
const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// A descriptor that becomes readable when the process is asked to end.
#[derive(Debug)]
pub struct TerminationSignals {
    fd: OwnedFd,
    signals: Vec<libc::c_int>,
}

impl TerminationSignals {
    /// Blocks the signals in the calling thread, and so in all threads that it starts from here on: call
    /// it first of all.
    pub fn block() -> io::Result<Self> {
        // Whoever starts it by `nohup` wants it to outlive the terminal.
        let wanted = |signal: &libc::c_int| *signal != libc::SIGHUP || !is_ignored(*signal);
        let signals: Vec<_> = SIGNALS.into_iter().filter(wanted).collect();
        let set = set(&signals);
        // SAFETY: the set is initialised; no old mask is asked for.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, signals })
    }

    /// The next signal that arrived, by name; `None` if there is none. Does not wait.
    pub fn take(&self) -> Option<&'static str> {
        // SAFETY: all zeroes is a valid value of this plain structure.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&info);
        // SAFETY: the buffer is writable and has the size given.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size) };
        (read == size as isize).then(|| name(info.ssi_signo as libc::c_int))
    }

    /// From here on such a signal ends the process at once: for a user who will not wait for the orderly end.
    pub fn let_the_next_one_kill(&self) {
        for &signal in &self.signals {
            // SAFETY: the default action is a valid disposition; it may have been inherited as "ignore".
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        let set = set(&self.signals);
        // SAFETY: the set is initialised; no old mask is asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) };
    }
}

/// Makes a write beyond the limit on file sizes (`ulimit -f`) an error like any other, instead of the end of
/// the process.
pub fn survive_file_size_limit() {
    // SAFETY: ignoring is a valid disposition of this signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

impl AsRawFd for TerminationSignals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: only asks; the structure is writable.
    let rc = unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
    rc == 0 && action.sa_sigaction == libc::SIG_IGN
}

fn set(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value, and sigemptyset initialises it.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live set.
    unsafe { libc::sigemptyset(&mut set) };
    for &signal in signals {
        // SAFETY: the set was initialised above, the signal numbers are valid.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

fn name(signal: libc::c_int) -> &'static str {
    match signal {
        libc::SIGINT => "SIGINT",
        libc::SIGTERM => "SIGTERM",
        libc::SIGHUP => "SIGHUP",
        _ => "a signal",
    }
}
