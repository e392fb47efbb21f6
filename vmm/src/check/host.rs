//! Where a host shows what it has.

use std::ffi::CStr;
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;

use crate::memory::userfault::{Features, OpenError, Userfault};

/// A host, by the places at which it is looked at.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// KVM's device.
    pub kvm: PathBuf,
    /// The device that opens userfaultfds.
    pub userfaultfd: PathBuf,
    /// The sysctl `vm.unprivileged_userfaultfd`.
    pub unprivileged_userfaultfd: PathBuf,
    /// Opens a userfaultfd and tells what it can do.
    pub userfaultfd_features: fn() -> Result<Features, OpenError>,
    /// This process's capabilities and more: `/proc/self/status`.
    pub status: PathBuf,
    /// What the CPUs can do: `/proc/cpuinfo`.
    pub cpuinfo: PathBuf,
    /// How much memory there is: `/proc/meminfo`.
    pub meminfo: PathBuf,
    /// The groups that this process is in: `/proc/self/cgroup`.
    pub cgroup: PathBuf,
    /// Where they are mounted: `/proc/self/mountinfo`.
    pub mountinfo: PathBuf,
    /// Loaded kernel modules: `/sys/module`.
    pub modules: PathBuf,
    /// Settings of transparent huge pages: `/sys/kernel/mm/transparent_hugepage`.
    pub huge_pages: PathBuf,
}

impl Host {
    /// The host that runs this process.
    pub fn this() -> Self {
        Self {
            release: release(),
            kvm: "/dev/kvm".into(),
            userfaultfd: "/dev/userfaultfd".into(),
            unprivileged_userfaultfd: "/proc/sys/vm/unprivileged_userfaultfd".into(),
            userfaultfd_features: Userfault::features,
            status: "/proc/self/status".into(),
            cpuinfo: "/proc/cpuinfo".into(),
            meminfo: "/proc/meminfo".into(),
            cgroup: "/proc/self/cgroup".into(),
            mountinfo: "/proc/self/mountinfo".into(),
            modules: "/sys/module".into(),
            huge_pages: "/sys/kernel/mm/transparent_hugepage".into(),
        }
    }

    /// Whether the first CPU has `flag`; `false` where that cannot be read.
    pub(super) fn cpu_has(&self, flag: &str) -> bool {
        let cpuinfo = fs::read_to_string(&self.cpuinfo).unwrap_or_default();
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|flags| flags.split_whitespace().any(|it| it == flag))
    }

    /// Whether module `name` is loaded or built in.
    pub(super) fn has_module(&self, name: &str) -> bool {
        self.modules.join(name).is_dir()
    }
}

/// What `uname -r` prints; empty if the kernel does not say.
fn release() -> String {
    let mut name = MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: the call writes a whole `utsname` to a place that has room for one.
    if unsafe { libc::uname(name.as_mut_ptr()) } != 0 {
        return String::new();
    }
    // SAFETY: the call succeeded, so it is written; its strings end with NUL.
    let release = unsafe { CStr::from_ptr((*name.as_ptr()).release.as_ptr()) };
    release.to_string_lossy().into_owned()
}
