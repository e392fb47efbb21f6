//! Control groups whose memory is limited, in either version of the kernel's interface.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io, process, thread};

use super::{SwapError, undone};

/// How often a group that is still busy is asked to go.
const TRIES: u32 = 50;

/// Where groups that limit memory are made.
#[derive(Debug)]
pub(in crate::bench) struct Controller {
    root: PathBuf,
    unified: bool,
    /// The controller was given to groups below `root` for us.
    enabled: bool,
}

impl Controller {
    /// Finds it among what is mounted.
    ///
    /// # Errors
    ///
    /// It is not mounted, or not given to groups below its root.
    pub(in crate::bench) fn find() -> Result<Self, SwapError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (root, unified) = mounts
            .lines()
            .find_map(has_memory)
            .ok_or(SwapError::Lacks {
                what: "the memory controller of control groups",
                found: "it is not mounted".into(),
                remedy: "mount cgroup2, or cgroup with -o memory",
            })?;
        let mut found = Self {
            root,
            unified,
            enabled: false,
        };
        let control = found.root.join("cgroup.subtree_control");
        if unified && !has_word(&control, "memory") {
            fs::write(&control, "+memory").map_err(SwapError::setting(&control))?;
            found.enabled = true;
        }
        Ok(found)
    }

    /// A new group. All that is in it has at most `limit` bytes in memory.
    ///
    /// # Errors
    ///
    /// The host refuses it.
    pub(in crate::bench) fn group(&self, limit: Option<u64>) -> Result<Group, SwapError> {
        let dir = self.root.join(format!("gmem-bench-{}", process::id()));
        fs::create_dir(&dir).map_err(SwapError::setting(&dir))?;
        let group = Group {
            dir,
            unified: self.unified,
        };
        if let Some(limit) = limit {
            let file = group.file("memory.limit_in_bytes", "memory.max");
            fs::write(&file, limit.to_string()).map_err(SwapError::setting(&file))?;
        }
        Ok(group)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if self.enabled {
            let control = self.root.join("cgroup.subtree_control");
            undone(fs::write(&control, "-memory").map_err(SwapError::setting(&control)));
        }
    }
}

/// A group; it must be empty when it is dropped.
#[derive(Debug)]
pub(in crate::bench) struct Group {
    dir: PathBuf,
    unified: bool,
}

impl Group {
    /// The file through which a process joins.
    pub(in crate::bench) fn members(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Swapped bytes. Reading the statistics also brings them up to date, without which reclaim goes astray: see
    /// [`crate::bench::child`].
    pub(in crate::bench) fn swapped_bytes(&self) -> u64 {
        let statistics = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        match self.unified {
            true => self.number("memory.swap.current"),
            false => of_line(&statistics, "swap"),
        }
    }

    /// The most bytes that it ever had in memory.
    pub(in crate::bench) fn peak_bytes(&self) -> u64 {
        self.number(match self.unified {
            true => "memory.peak",
            false => "memory.max_usage_in_bytes",
        })
    }

    /// How many processes were killed because nothing could be reclaimed.
    pub(in crate::bench) fn killed(&self) -> u64 {
        let file = self.file("memory.oom_control", "memory.events");
        of_line(&fs::read_to_string(file).unwrap_or_default(), "oom_kill")
    }

    fn file(&self, first: &str, second: &str) -> PathBuf {
        self.dir.join(if self.unified { second } else { first })
    }

    fn number(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut result = fs::remove_dir(&self.dir);
        for _ in 0..TRIES {
            // Its last process may be known as ended before it has left.
            match &result {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(Duration::from_millis(20));
                    result = fs::remove_dir(&self.dir);
                }
                _ => break,
            }
        }
        undone(result.map_err(SwapError::setting(&self.dir)));
    }
}

/// Where the line of `/proc/self/mountinfo` mounts the memory controller, and whether as version 2.
fn has_memory(line: &str) -> Option<(PathBuf, bool)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let root = PathBuf::from(mount.split(' ').nth(4)?);
    let mut words = filesystem.split(' ');
    match (words.next()?, words.nth(1)?) {
        ("cgroup", options) if options.split(',').any(|it| it == "memory") => Some((root, false)),
        ("cgroup2", _) if has_word(&root.join("cgroup.controllers"), "memory") => {
            Some((root, true))
        }
        _ => None,
    }
}

fn has_word(file: &Path, word: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().any(|it| it == word)
}

/// The number after `key` in lines of a key and a number; 0 if it is not there.
fn of_line(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, number)| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_with_the_memory_controller_is_found() {
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let expected = Some((PathBuf::from("/sys/fs/cgroup/memory"), false));
        assert_eq!(has_memory(v1), expected);
        for other in [
            "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu",
            "41 31 0:38 / /nowhere/unified rw,relatime - cgroup2 cgroup2 rw",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755",
            "",
        ] {
            assert_eq!(has_memory(other), None, "{other}");
        }
    }

    #[test]
    fn statistics_are_lines_of_a_name_and_a_number() {
        let text = "total_swap 9\nswap 4096\noom_kill 1\n";
        assert_eq!(of_line(text, "swap"), 4096);
        assert_eq!(of_line(text, "oom_kill"), 1);
        assert_eq!(of_line(text, "none"), 0);
    }
}
