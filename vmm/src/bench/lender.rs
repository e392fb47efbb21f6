//! A `gmem pager serve` in a process of its own.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};

/// It ends with this value, at once.
pub(super) struct Lender {
    child: Child,
    /// Where it listens, as it said.
    address: String,
    /// Kept, because what it says has to go somewhere.
    said: BufReader<ChildStderr>,
}

impl Lender {
    /// Starts one by `command`, which becomes the binary, and waits until it listens at `listen`.
    pub(super) fn start(
        mut command: Command,
        listen: &str,
        bytes: u64,
        more: &[&str],
    ) -> io::Result<Self> {
        command
            .args(["pager", "serve", "--listen", listen, "--lend"])
            .arg(format!("ram:{bytes}"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lender = Self {
            child,
            address: String::new(),
            said: BufReader::new(stderr),
        };
        let mut line = String::new();
        lender.said.read_line(&mut line)?;
        match line.trim_end().split_once(" at ") {
            Some((_, address)) if line.starts_with("gmem: lending ") => {
                lender.address = address.to_owned();
                Ok(lender)
            }
            _ => Err(io::Error::other(format!(
                "gmem pager serve --listen {listen}: {}",
                line.trim_end()
            ))),
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// It dies, without a word.
    pub(super) fn kill(self) {
        drop(self);
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // SIGKILL; what has ended by itself is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
