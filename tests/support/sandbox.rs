//! Hosts that lack something: the binary in a mount namespace of its own, with system calls refused.
//!
//! Nothing here changes the host. A test that may not do this (it needs CAP_SYS_ADMIN, as root has) fails
//! when it starts the binary, and says so.

use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::gmem;

const CAP_SYS_PTRACE: libc::c_ulong = 19;
/// `uname` then names a release 2.6, see personality(2).
const UNAME26: libc::c_ulong = 0x002_0000;

/// What is different about the host.
#[derive(Debug, Default)]
pub struct Sandbox {
    mounts: Vec<Mount>,
    refused: Vec<(libc::c_long, i32)>,
    without_ptrace: bool,
    old_kernel: bool,
}

#[derive(Debug)]
struct Mount {
    source: CString,
    target: CString,
    kind: CString,
    flags: libc::c_ulong,
    options: CString,
}

impl Sandbox {
    /// A host that lacks nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// `path` is there, but is only /dev/null.
    pub fn mask(self, path: &str) -> Self {
        self.mount("/dev/null", path, "", libc::MS_BIND, "")
    }

    /// `path` is an empty file system of `size`, such as `16M`.
    pub fn small(self, path: &Path, size: &str) -> Self {
        let options = format!("size={size}");
        self.mount("none", path.to_str().unwrap(), "tmpfs", 0, &options)
    }

    /// `path` is a file system that cannot be written.
    pub fn read_only(self, path: &Path) -> Self {
        self.mount("none", path.to_str().unwrap(), "tmpfs", libc::MS_RDONLY, "")
    }

    /// System call `number` fails with `errno`.
    pub fn refuse(mut self, number: libc::c_long, errno: i32) -> Self {
        self.refused.push((number, errno));
        self
    }

    /// The binary does not hold CAP_SYS_PTRACE.
    pub fn without_ptrace(mut self) -> Self {
        self.without_ptrace = true;
        self
    }

    /// The kernel says that it is Linux 2.6.
    pub fn old_kernel(mut self) -> Self {
        self.old_kernel = true;
        self
    }

    /// The binary with `args` on that host.
    pub fn command(self, args: &[&str]) -> Command {
        let mut command = gmem::command(args);
        let filter = self.filter();
        // SAFETY: the closure only makes system calls on data that was made before the fork.
        unsafe { command.pre_exec(move || self.enter(&filter)) };
        command
    }

    fn mount(
        mut self,
        source: &str,
        target: &str,
        kind: &str,
        flags: libc::c_ulong,
        options: &str,
    ) -> Self {
        let text = |text: &str| CString::new(text).unwrap();
        self.mounts.push(Mount {
            source: text(source),
            target: text(target),
            kind: text(kind),
            flags,
            options: text(options),
        });
        self
    }

    /// A seccomp program: load the call's number; for each refused one return its error; allow the rest.
    fn filter(&self) -> Vec<libc::sock_filter> {
        let op = |code: u32, jt, jf, k| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
        for &(number, errno) in &self.refused {
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            program.push(op(equal, 0, 1, number as u32));
            let error = libc::SECCOMP_RET_ERRNO | errno as u32;
            program.push(op(libc::BPF_RET | libc::BPF_K, 0, 0, error));
        }
        program.push(op(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW));
        program
    }

    /// In the child, between fork and exec.
    fn enter(&self, filter: &[libc::sock_filter]) -> io::Result<()> {
        if !self.mounts.is_empty() {
            // SAFETY: takes flags by value.
            done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, null) = (c"none".as_ptr(), std::ptr::null());
            // SAFETY: C strings and null pointers where they are allowed.
            done(unsafe { libc::mount(none, c"/".as_ptr(), null, private, null.cast()) })?;
        }
        for it in &self.mounts {
            let (source, target) = (it.source.as_ptr(), it.target.as_ptr());
            let (kind, options) = (it.kind.as_ptr(), it.options.as_ptr().cast());
            // SAFETY: C strings that outlive the call.
            done(unsafe { libc::mount(source, target, kind, it.flags, options) })?;
        }
        if self.without_ptrace {
            // SAFETY: takes a number by value; what is executed next has no more than the bounding set.
            done(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_PTRACE, 0, 0, 0) })?;
        }
        if self.old_kernel {
            // SAFETY: takes a number by value.
            done(unsafe { libc::personality(UNAME26) })?;
        }
        if !self.refused.is_empty() {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            // SAFETY: takes numbers by value.
            done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
            let mode = libc::SECCOMP_MODE_FILTER;
            // SAFETY: the program and its length belong together; the kernel copies it.
            done(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) })?;
        }
        Ok(())
    }
}

fn done(returned: i32) -> io::Result<()> {
    if returned < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
