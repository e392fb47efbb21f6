//! The memory cgroup of this process, of either version.
//!
//! Kernel side: `mm/memcontrol.c`, `mm/memcontrol-v1.c`; `Documentation/admin-guide/cgroup-v2.rst`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Which hierarchy has the memory controller, and so what its files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// cgroup v1.
    V1,
    /// cgroup v2.
    V2,
}

impl Version {
    const fn limit(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }

    const fn usage(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    /// What is written to, to reclaim.
    const fn reclaim(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.reclaim",
        }
    }
}

/// From here on v1 means: no limit.
const NO_LIMIT: u64 = 1 << 62;

/// The memory cgroup of a process.
#[derive(Debug)]
pub struct Group {
    version: Version,
    directory: PathBuf,
    usage: File,
}

impl Group {
    /// The group of the process that `/proc/PID/cgroup` and `/proc/PID/mountinfo` are of.
    ///
    /// # Errors
    /// That of reading them; [`io::ErrorKind::NotFound`] if no memory controller is mounted, or for the root group of v2, which has
    /// no limit.
    pub fn find(cgroup: &Path, mountinfo: &Path) -> io::Result<Self> {
        let (cgroup, mounts) = (fs::read_to_string(cgroup)?, fs::read_to_string(mountinfo)?);
        let (version, directory) = locate(&cgroup, &mounts).ok_or(io::ErrorKind::NotFound)?;
        let usage = File::open(directory.join(version.usage()))?;
        Ok(Self {
            version,
            directory,
            usage,
        })
    }

    /// The group of this process.
    ///
    /// # Errors
    /// As [`Group::find`].
    pub fn of_this_process() -> io::Result<Self> {
        Self::find(
            Path::new("/proc/self/cgroup"),
            Path::new("/proc/self/mountinfo"),
        )
    }

    /// The file with its limit.
    pub fn limit_file(&self) -> PathBuf {
        self.directory.join(self.version.limit())
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes that its processes may have; `None` without a limit.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::InvalidData`] for what is no number.
    pub fn limit(&self) -> io::Result<Option<u64>> {
        limit_in(&fs::read_to_string(self.limit_file())?)
    }

    /// Bytes of swap that its processes may have; `None` without a limit of their own, or if swap is not accounted.
    pub fn swap_limit(&self) -> Option<u64> {
        let read = |name| limit_in(&fs::read_to_string(self.directory.join(name)).ok()?).ok()?;
        match self.version {
            // Of memory and swap together.
            Version::V1 => {
                let both = read("memory.memsw.limit_in_bytes")?;
                Some(both.saturating_sub(self.limit().ok()??))
            }
            Version::V2 => read("memory.swap.max"),
        }
    }

    /// Bytes that its processes have.
    ///
    /// # Errors
    /// As [`Group::limit`].
    pub fn usage(&self) -> io::Result<u64> {
        let mut text = [0; 32];
        let length = self.usage.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..length]);
        text.ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Whether this process may have pages reclaimed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn check_reclaim(&self) -> io::Result<()> {
        let file = self.directory.join(self.version.reclaim());
        OpenOptions::new().write(true).open(file).map(drop)
    }

    /// Takes about `bytes` from the group's processes and swaps them out, on the caller's time. False if it was less.
    ///
    /// v1 has no file for it. There the limit is lowered: the kernel reclaims until what is used fits, leaving the limit as it is
    /// meanwhile; then it is put back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reclaim(&self, bytes: u64) -> io::Result<bool> {
        let file = self.directory.join(self.version.reclaim());
        let tried = match self.version {
            Version::V2 => fs::write(file, bytes.to_string()),
            Version::V1 => {
                let Some(limit) = self.limit()? else {
                    return Ok(false);
                };
                let lower = self.usage()?.min(limit).saturating_sub(bytes);
                let lowered = fs::write(&file, lower.to_string());
                fs::write(&file, limit.to_string())?;
                lowered
            }
        };
        match tried {
            Err(error) if is_less(&error) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes the kernel add up what it counts of the group. It does so every two seconds otherwise, and until it does
    /// sees no pages that it could swap out: a group that fills faster is killed for lack of memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_up(&self) -> io::Result<()> {
        fs::read(self.directory.join("memory.stat")).map(drop)
    }
}

/// v1 and v2 say so if they found less than was asked for.
fn is_less(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EAGAIN | libc::EINTR)
    )
}

fn limit_in(text: &str) -> io::Result<Option<u64>> {
    match text.trim() {
        "max" => Ok(None),
        number => {
            let bytes: u64 = number.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            Ok((bytes < NO_LIMIT).then_some(bytes))
        }
    }
}

/// Where the group with the memory controller is, by the text of `/proc/PID/cgroup` and `/proc/PID/mountinfo`.
fn locate(cgroup: &str, mounts: &str) -> Option<(Version, PathBuf)> {
    let named = |text: &str, name: &str| text.split(',').any(|it| it == name);
    let path_of = |version| {
        cgroup.lines().find_map(|line| {
            let (number, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = match version {
                Version::V1 => named(controllers, "memory"),
                Version::V2 => number == "0" && controllers.is_empty(),
            };
            is_it.then_some(path)
        })
    };
    let mount_of = |version| {
        mounts.lines().find_map(|line| {
            let (mount, system) = line.split_once(" - ")?;
            let mut system = system.split(' ');
            let (kind, options) = (system.next()?, system.nth(1)?);
            let is_it = match version {
                Version::V1 => kind == "cgroup" && named(options, "memory"),
                Version::V2 => kind == "cgroup2",
            };
            let mut mount = mount.split(' ').skip(3);
            is_it.then_some((mount.next()?, mount.next()?))
        })
    };
    [Version::V1, Version::V2].into_iter().find_map(|version| {
        let (path, (root, mounted)) = (path_of(version)?, mount_of(version)?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some((version, Path::new(mounted).join(below)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_group_is_where_the_memory_controller_is() {
        let v1 = locate("4:memory:/a/b\n0::/c\n", V1);
        assert_eq!(v1, Some((Version::V1, "/sys/fs/cgroup/memory/a/b".into())));
        let v2 = locate("0::/user.slice/x.scope\n", V2);
        let place = "/sys/fs/cgroup/user.slice/x.scope";
        assert_eq!(v2, Some((Version::V2, place.into())));
    }

    #[test]
    fn a_mount_that_shows_a_part_is_seen_from_there() {
        let mounts = "35 31 0:32 /box /mnt rw - cgroup cgroup rw,cpu,memory\n";
        let place = |path: &str| locate(&format!("4:cpu,memory:{path}\n"), mounts);
        assert_eq!(place("/box/a"), Some((Version::V1, "/mnt/a".into())));
        assert_eq!(place("/elsewhere"), None);
    }

    #[test]
    fn garbage_is_no_group() {
        for text in ["", ":", "0:", "x y z - ", " - cgroup2", "4:memory:/a"] {
            assert_eq!(locate(text, text), None, "{text}");
        }
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(limit_in("max\n").unwrap(), None);
        assert_eq!(limit_in("9223372036854771712\n").unwrap(), None);
        assert_eq!(limit_in("83886080\n").unwrap(), Some(80 << 20));
        assert!(limit_in("lots").is_err());
    }
}
