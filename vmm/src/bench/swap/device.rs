//! Devices in memory for the kernel to swap to.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{SwapError, others, tool, undone};

/// The compressor that both sides of a comparison have.
const COMPRESSOR: &str = "lz4";
const CONTROL: &str = "/sys/class/zram-control";

/// A device that is formatted for swap. Nothing is swapped to it but while [`Device::activate`] is in force.
#[derive(Debug)]
pub(in crate::bench) enum Device {
    /// Compressed.
    Zram(Zram),
    /// As it is.
    Loop(Loop),
}

impl Device {
    /// A new zram device, for `bytes` of pages.
    ///
    /// # Errors
    ///
    /// The host has no zram, or none with lz4.
    pub(in crate::bench) fn zram(bytes: u64) -> Result<Self, SwapError> {
        let hot_add = Path::new(CONTROL).join("hot_add");
        let number = fs::read_to_string(&hot_add).map_err(|error| SwapError::Lacks {
            what: "zram",
            found: format!("{}: {error}", hot_add.display()),
            remedy: "modprobe zram",
        })?;
        let zram = Zram {
            number: number.trim().to_owned(),
        };
        zram.set("comp_algorithm", COMPRESSOR)?;
        zram.set("disksize", &bytes.to_string())?;
        tool("mkswap", &[&zram.path()])?;
        Ok(Self::Zram(zram))
    }

    /// A loop device over a file of `bytes` in a tmpfs that is mounted in `dir`, a directory of the caller's.
    ///
    /// # Errors
    ///
    /// The host refuses a step.
    pub(in crate::bench) fn in_memory(dir: &Path, bytes: u64) -> Result<Self, SwapError> {
        let mount = dir.join("tmpfs");
        fs::create_dir(&mount).map_err(SwapError::setting(&mount))?;
        let options = format!("noswap,size={}", bytes + (1 << 20));
        let at = mount.to_string_lossy();
        tool("mount", &["-t", "tmpfs", "-o", &options, "gmem-bench", &at])?;
        let tmpfs = Tmpfs(mount);
        let file = tmpfs.0.join("swap");
        // Written, not only sized: who swaps is not to be charged for the file's pages as well.
        File::create(&file)
            .and_then(|mut file| io::copy(&mut io::repeat(0).take(bytes), &mut file))
            .map_err(SwapError::setting(&file))?;
        let path = tool("losetup", &["--find", "--show", &file.to_string_lossy()])?;
        let device = Loop {
            path,
            _tmpfs: tmpfs,
        };
        tool("mkswap", &[&device.path])?;
        Ok(Self::Loop(device))
    }

    /// Swaps to it, before all other swap, until the result is dropped.
    ///
    /// # Errors
    ///
    /// The host refuses.
    pub(in crate::bench) fn activate(&self) -> Result<Active, SwapError> {
        let path = self.path();
        let (_, priority) = others()?;
        tool("swapon", &["--priority", &priority.to_string(), &path])?;
        Ok(Active(path))
    }

    /// Bytes that it takes for what it holds: (before compression, after it, with its metadata). None where it
    /// compresses nothing.
    pub(in crate::bench) fn stored(&self) -> Option<[u64; 3]> {
        let Self::Zram(zram) = self else { return None };
        let text = fs::read_to_string(zram.file("mm_stat")).unwrap_or_default();
        let mut numbers = text
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0));
        Some([(); 3].map(|()| numbers.next().unwrap_or(0)))
    }

    fn path(&self) -> String {
        match self {
            Self::Zram(zram) => zram.path(),
            Self::Loop(device) => device.path.clone(),
        }
    }
}

/// The kernel swaps to the device.
#[derive(Debug)]
pub(in crate::bench) struct Active(String);

impl Drop for Active {
    fn drop(&mut self) {
        undone(tool("swapoff", &[&self.0]).map(drop));
    }
}

/// A zram device of our own.
#[derive(Debug)]
pub(in crate::bench) struct Zram {
    number: String,
}

impl Zram {
    fn path(&self) -> String {
        format!("/dev/zram{}", self.number)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&format!("/sys/block/zram{}", self.number)).join(name)
    }

    fn set(&self, name: &str, value: &str) -> Result<(), SwapError> {
        let file = self.file(name);
        fs::write(&file, value).map_err(SwapError::setting(&file))
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        undone(self.set("reset", "1"));
        let remove = Path::new(CONTROL).join("hot_remove");
        undone(fs::write(&remove, &self.number).map_err(SwapError::setting(&remove)));
    }
}

/// A loop device of our own.
#[derive(Debug)]
pub(in crate::bench) struct Loop {
    path: String,
    _tmpfs: Tmpfs,
}

impl Drop for Loop {
    fn drop(&mut self) {
        undone(tool("losetup", &["--detach", &self.path]).map(drop));
    }
}

/// A mount of our own.
#[derive(Debug)]
struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        undone(tool("umount", &[&self.0.to_string_lossy()]).map(drop));
        undone(fs::remove_dir(&self.0).map_err(SwapError::setting(&self.0)));
    }
}
