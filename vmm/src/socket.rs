//! A listening socket's file: made for its owner only, never in place of somebody else's, removed at the end.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: libc::c_int = 32;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process serves it.
    #[error(
        "the socket {}: another process listens there; give each a path of its own, or end the other",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something else is there.
    #[error(
        "the socket {}: there is something that is not a socket, and it is left alone; give another path",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// It cannot be a socket's address.
    #[error(
        "the socket {}: a socket's path has 1 to {limit} bytes and no NUL, this one has {}; give a shorter one",
        path.display(), path.as_os_str().len()
    )]
    Path {
        /// The path.
        path: PathBuf,
        /// The most bytes.
        limit: usize,
    },
    /// The host refused.
    #[error(
        "the socket {}: {step}: {source}; give a path in a directory that exists and is writable",
        path.display()
    )]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, while it is ours to remove.
    file: Option<(u64, u64)>,
}

impl Socket {
    /// Makes the socket at `path`, with mode 0600, and listens. The file of a socket that nobody listens on
    /// any more is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |step| {
            move |source| SocketError::System {
                path: path.to_owned(),
                step,
                source,
            }
        };
        let (address, length) = address(path)?;
        make_room(path, &address, length)?;
        let socket = socket().map_err(failed("making a socket"))?;
        // A socket's file gets the mode that the socket has when it is bound: nobody else can connect in
        // between, and the process's umask stays as it is.
        let socket = File::from(socket);
        socket
            .set_permissions(Permissions::from_mode(0o600))
            .map_err(failed("setting its mode"))?;
        // SAFETY: the address is initialised up to the length given.
        let rc = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        checked(rc).map_err(failed("making the file"))?;
        let file = fs::symlink_metadata(path).map_err(failed("looking at the file made"))?;
        let made = Self {
            listener: OwnedFd::from(socket).into(),
            path: path.to_owned(),
            file: Some(identity(&file)),
        };
        // SAFETY: no preconditions.
        let rc = unsafe { libc::listen(made.listener.as_raw_fd(), BACKLOG) };
        checked(rc).map_err(failed("listening"))?;
        Ok(made)
    }

    /// Its path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who connects; does not block.
    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Removes the file, unless another has taken its place: from here on nobody can connect.
    pub(crate) fn remove(&mut self) {
        if let Some(ours) = self.file.take()
            && fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == ours)
        {
            // Nothing to be done where it fails: the next run replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Removes what a run that ended badly has left at `path`; anything else there is an error.
fn make_room(
    path: &Path,
    address: &libc::sockaddr_un,
    length: libc::socklen_t,
) -> Result<(), SocketError> {
    let failed = |step, source| SocketError::System {
        path: path.to_owned(),
        step,
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking whether it is free", error)),
    }
    let probe = socket().map_err(|error| failed("making a socket", error))?;
    // SAFETY: the address is initialised up to the length given.
    let rc = unsafe {
        libc::connect(
            probe.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            length,
        )
    };
    match checked(rc).map_err(|error| (error.raw_os_error(), error)) {
        Err((Some(libc::ECONNREFUSED), _)) => fs::remove_file(path)
            .map_err(|error| failed("removing a socket that nobody listens on", error)),
        // EAGAIN: there is a listener, with many waiting for it already.
        Ok(_) | Err((Some(libc::EAGAIN | libc::EPROTOTYPE), _)) => {
            Err(SocketError::InUse(path.to_owned()))
        }
        Err((_, error)) => Err(failed("asking whether somebody listens", error)),
    }
}

fn address(path: &Path) -> Result<(libc::sockaddr_un, libc::socklen_t), SocketError> {
    // SAFETY: all zeroes is a valid value of this plain structure.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    let limit = address.sun_path.len() - 1;
    if bytes.is_empty() || bytes.len() > limit || bytes.contains(&0) {
        return Err(SocketError::Path {
            path: path.to_owned(),
            limit,
        });
    }
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((address, length as libc::socklen_t))
}

/// A stream socket that does not block.
fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no preconditions.
    let fd = checked(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: the descriptor was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn checked(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rc)
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("gmem-socket-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_file_is_its_owners_alone_and_goes_with_the_socket() {
        let place = Place::new("mode");
        let socket = Socket::bind(&place.0).unwrap();
        let mode = fs::symlink_metadata(socket.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        drop(socket);
        assert!(!place.0.exists());
    }

    #[test]
    fn a_socket_in_use_is_refused_and_a_dead_one_replaced() {
        let place = Place::new("dead");
        let first = Socket::bind(&place.0).unwrap();
        let refused = Socket::bind(&place.0);
        assert!(matches!(refused, Err(SocketError::InUse(_))), "{refused:?}");
        drop(first);
        drop(UnixListener::bind(&place.0).unwrap());
        Socket::bind(&place.0).unwrap();
        assert!(!place.0.exists());
    }

    #[test]
    fn what_is_not_a_socket_stays() {
        let place = Place::new("file");
        fs::write(&place.0, "precious").unwrap();
        let refused = Socket::bind(&place.0);
        assert!(matches!(refused, Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&place.0).unwrap(), b"precious");
    }

    #[test]
    fn somebody_elses_file_is_not_removed_at_the_end() {
        let place = Place::new("taken");
        let socket = Socket::bind(&place.0).unwrap();
        fs::remove_file(&place.0).unwrap();
        fs::write(&place.0, "precious").unwrap();
        drop(socket);
        assert_eq!(fs::read(&place.0).unwrap(), b"precious");
    }

    #[test]
    fn paths_that_no_socket_can_have_are_refused() {
        for path in ["", &"x".repeat(200)] {
            let refused = Socket::bind(Path::new(path));
            assert!(matches!(refused, Err(SocketError::Path { .. })));
        }
        let refused = Socket::bind(Path::new("/nowhere/at/all"));
        assert!(matches!(refused, Err(SocketError::System { .. })));
    }
}
