//! How a userfaultfd is obtained, which features it needs, and what to say when it cannot be had.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::abi;

/// Where the kernel hands out userfaultfds to whoever may open the file.
const DEVICE: &str = "/dev/userfaultfd";

/// A set of userfaultfd features, by the kernel's bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u64);

impl Features {
    /// Write protection (Linux 5.7).
    pub const WRITE_PROTECT: Self = Self(1 << 0);
    /// Events carry the faulting thread's number (Linux 4.14).
    pub const THREAD_ID: Self = Self(1 << 8);
    /// Pages that are not there can be write-protected too (Linux 6.4).
    pub const WP_UNPOPULATED: Self = Self(1 << 13);
    /// [`poison`](super::Userfault::poison) (Linux 6.6).
    pub const POISON: Self = Self(1 << 14);
    /// The kernel resolves write-protection faults itself; writes are found by scanning (Linux 6.7).
    pub const WP_ASYNC: Self = Self(1 << 15);
    /// [`move_pages`](super::Userfault::move_pages) (Linux 6.8).
    pub const MOVE: Self = Self(1 << 16);

    /// What the memory system cannot do without.
    pub const REQUIRED: Self =
        Self(Self::WRITE_PROTECT.0 | Self::THREAD_ID.0 | Self::POISON.0 | Self::MOVE.0);

    const NAMES: [(Self, &str); 6] = [
        (Self::WRITE_PROTECT, "PAGEFAULT_FLAG_WP"),
        (Self::THREAD_ID, "THREAD_ID"),
        (Self::WP_UNPOPULATED, "WP_UNPOPULATED"),
        (Self::POISON, "POISON"),
        (Self::WP_ASYNC, "WP_ASYNC"),
        (Self::MOVE, "MOVE"),
    ];

    /// The set with the kernel's bits `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The kernel's bits of the set.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// What is in either set.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether everything of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }
}

impl fmt::Display for Features {
    /// The names, joined by commas; bits without a name as one hexadecimal number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = *self;
        let mut separator = "";
        for (feature, name) in Self::NAMES {
            if rest.contains(feature) {
                rest = rest.without(feature);
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        if rest.0 != 0 {
            write!(f, "{separator}{:#x}", rest.0)?;
        }
        Ok(())
    }
}

/// What a read does when no event is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// It waits; a signal ends the wait with [`io::ErrorKind::Interrupted`]. The shortest way from fault
    /// to handler. Such a descriptor cannot be polled: `poll` answers `POLLERR`.
    Blocking,
    /// It returns [`io::ErrorKind::WouldBlock`]; wait by polling [`as_fd`](std::os::fd::AsFd::as_fd).
    Polled,
}

/// Why no userfaultfd could be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kernel was built without it, or a sandbox hides it.
    #[error(
        "this kernel has no userfaultfd: run a kernel with CONFIG_USERFAULTFD=y, or allow the system call \
         in the container's seccomp profile"
    )]
    Absent,
    /// Neither door opens for this user.
    #[error(
        "not permitted to handle page faults of the kernel itself (KVM needs that): the system call said \
         {syscall}, opening {DEVICE} said {device}; give this user read and write permission on {DEVICE}, \
         or run with CAP_SYS_PTRACE, or set sysctl vm.unprivileged_userfaultfd=1"
    )]
    NotPermitted {
        /// What the file's opening failed with.
        device: io::Error,
        /// What the system call failed with.
        syscall: io::Error,
    },
    /// The kernel is too old or was built without a feature.
    #[error(
        "userfaultfd of Linux {release} lacks {missing}: Linux 6.8 or newer is needed, with \
         CONFIG_HAVE_ARCH_USERFAULTFD_WP"
    )]
    MissingFeatures {
        /// What is needed and not there.
        missing: Features,
        /// The kernel's release, as `uname` names it.
        release: String,
    },
    /// Something else failed.
    #[error("cannot {step}: {source}; if that is a limit on open files, raise it (ulimit -n)")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A new descriptor that handles faults of the kernel too, before its handshake.
///
/// `UFFD_USER_MODE_ONLY` is never asked for: KVM's instruction emulator, kvm-clock and system calls on
/// guest memory fault in kernel mode, and would find a hole there. The device file comes first because
/// its permission can be given to one user, unlike a capability or a sysctl.
pub(super) fn descriptor(reading: Reading) -> Result<OwnedFd, OpenError> {
    let flags = libc::O_CLOEXEC
        | match reading {
            Reading::Blocking => 0,
            Reading::Polled => libc::O_NONBLOCK,
        };
    let device = match by_device(flags) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    let syscall = match by_syscall(flags) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    match syscall.raw_os_error() {
        Some(libc::ENOSYS) => Err(OpenError::Absent),
        Some(libc::EPERM | libc::EACCES) => Err(OpenError::NotPermitted { device, syscall }),
        _ => Err(OpenError::System {
            step: "open a userfaultfd",
            source: syscall,
        }),
    }
}

fn by_device(flags: libc::c_int) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    // SAFETY: the request takes its flags by value and touches no memory of ours.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), abi::USERFAULTFD_IOC_NEW, flags) };
    owned(i64::from(fd))
}

fn by_syscall(flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call takes its flags by value and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    owned(fd)
}

fn owned(fd: i64) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(fd) {
        // SAFETY: the kernel has just returned this descriptor to us; nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handshake: enables `wanted` on a fresh descriptor and returns every feature that the kernel has.
///
/// It can be done once for a descriptor; asking for nothing counts as doing it.
pub(super) fn handshake(fd: &OwnedFd, wanted: Features) -> io::Result<Features> {
    let mut api = abi::Api {
        api: abi::UFFD_API,
        features: wanted.bits(),
        ioctls: 0,
    };
    // SAFETY: the request reads and writes one `Api`, which lives and is exclusively ours.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), abi::UFFDIO_API, &raw mut api) };
    if done == 0 {
        Ok(Features::from_bits(api.features))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's release, for messages.
pub(super) fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "(unknown)".to_owned(), |text| text.trim().to_owned())
}
