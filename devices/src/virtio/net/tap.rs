//! The host's side: a network interface whose wire is a descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::request::HEADER_SIZE;

const DEVICE: &str = "/dev/net/tun";

/// Why there is no tap interface.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Linux has no such names.
    #[error(
        "'{name}' is no interface name: it has {len} bytes, 1 to 15 are possible, without / and spaces"
    )]
    Name {
        /// What was asked for.
        name: String,
        /// Its length, bytes.
        len: usize,
    },
    /// The kernel has no tap interfaces, or this process does not see them.
    #[error(
        "{DEVICE} is missing: load the kernel module tun, or pass the device into the container"
    )]
    NoTun,
    /// Not allowed.
    #[error(
        "not allowed to use tap interface '{0}': run with CAP_NET_ADMIN, or let root make it with \
         'ip tuntap add {0} mode tap user NAME' and allow {DEVICE}"
    )]
    Permission(String),
    /// Somebody else has it.
    #[error("tap interface '{0}' is in use by another process: stop it, or choose another name")]
    Busy(String),
    /// Another kind of interface.
    #[error(
        "'{0}' exists and is no plain tap interface: choose another name, or make it with 'ip tuntap add {0} mode tap'"
    )]
    OtherKind(String),
    /// Anything else.
    #[error("tap interface '{name}': {cause}")]
    Other {
        /// What was asked for.
        name: String,
        /// What the kernel says.
        cause: io::Error,
    },
}

/// A tap interface, attached.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// No interface in truth: a socket in a test.
    #[cfg(test)]
    socket: bool,
}

impl Tap {
    /// Attaches to the tap interface `name`, which is made if it does not exist, and then goes when it is dropped.
    ///
    /// # Errors
    ///
    /// See [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = interface(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|cause| TapError::of(name, cause))?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request is an interface request, which this ioctl reads and writes.
        let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
        check(attached).map_err(|cause| TapError::of(name, cause))?;
        let size = HEADER_SIZE as libc::c_int;
        // SAFETY: this ioctl reads an int.
        let sized = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &size) };
        check(sized).map_err(|cause| TapError::of(name, cause))?;
        Ok(Self {
            file,
            #[cfg(test)]
            socket: false,
        })
    }

    /// A socket that keeps messages apart, in an interface's place.
    #[cfg(test)]
    pub(super) fn socket(socket: std::os::unix::net::UnixDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(socket));
        Self { file, socket: true }
    }

    /// What the guest takes off the kernel: packets without checksum or longer than the wire allows, by the features
    /// that the driver has agreed to.
    pub(super) fn set_offload(&self, features: u64) -> io::Result<()> {
        let has = |feature: u32| features & 1 << feature != 0;
        let mut offload = 0;
        // Segments need checksums: without them the kernel knows no offload at all.
        if has(VIRTIO_NET_F_GUEST_CSUM) {
            offload |= libc::TUN_F_CSUM;
            offload |= [
                (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
                (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
            ]
            .into_iter()
            .filter(|(feature, _)| has(*feature))
            .fold(0, |all, (_, flag)| all | flag);
        }
        #[cfg(test)]
        if self.socket {
            return Ok(());
        }
        let offload = libc::c_ulong::from(offload);
        // SAFETY: this ioctl takes its argument by value.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, offload) })
    }

    /// The next packet, with its header. `WouldBlock`: there is none.
    pub(super) fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(packet)
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl TapError {
    fn of(name: &str, cause: io::Error) -> Self {
        let name = name.to_owned();
        match cause.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::NoTun,
            Some(libc::EPERM | libc::EACCES) => Self::Permission(name),
            Some(libc::EBUSY) => Self::Busy(name),
            Some(libc::EINVAL) => Self::OtherKind(name),
            _ => Self::Other { name, cause },
        }
    }
}

/// An interface request for `name`.
fn interface(name: &str) -> Result<libc::ifreq, TapError> {
    // SAFETY: all zeros are a valid request: numbers, and an empty name.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let len = name.len();
    // One byte stays: the name's end.
    let fits = (1..request.ifr_name.len()).contains(&len);
    // A percent sign would have the kernel choose a number.
    if !fits
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b"/%:".contains(&byte))
    {
        let name = name.to_owned();
        return Err(TapError::Name { name, len });
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_has_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "tap%d", "a b", "ä"] {
            let error = Tap::open(name).unwrap_err();
            assert!(matches!(error, TapError::Name { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn errors_say_what_can_be_done() {
        let message = |errno| TapError::of("tap7", io::Error::from_raw_os_error(errno)).to_string();
        assert!(message(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(message(libc::EPERM).contains("ip tuntap add tap7 mode tap"));
        assert!(message(libc::ENOENT).contains("module tun"));
        assert!(message(libc::EBUSY).contains("another process"));
        assert!(message(libc::EINVAL).contains("no plain tap"));
    }
}
