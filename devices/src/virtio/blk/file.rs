//! Opening an image.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use crate::virtio::Rate;

/// The unit of a disk, bytes.
pub(super) const SECTOR: u64 = 512;
/// Length of a serial number, bytes.
pub(super) const SERIAL_LEN: usize = VIRTIO_BLK_ID_BYTES as usize;

/// What a disk is made of.
#[derive(Clone, Debug, Default)]
pub struct BlkOptions {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// The guest may not write.
    pub read_only: bool,
    /// How fast it may be.
    pub rate: Option<Rate>,
    /// What the guest reads as its serial number: at most 20 printable ASCII characters.
    pub serial: Option<String>,
}

/// Why a disk could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("disk {path}: there is no such file; make one with `truncate -s 1G {path}`")]
    NotFound {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file may not be opened in this way.
    #[error("disk {path}: not permitted for {wanted}; give this user access{hint}")]
    Denied {
        /// What was to be opened.
        path: PathBuf,
        /// For what.
        wanted: &'static str,
        /// What else would help.
        hint: &'static str,
    },
    /// It is no file that holds a disk.
    #[error("disk {path}: is {found}, expected a raw image or a block device")]
    NoImage {
        /// What was to be opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// No disk has that size.
    #[error(
        "disk {path}: has {bytes} bytes, expected at least one sector and a multiple of {SECTOR}; \
         `truncate -s %{SECTOR} {path}` fills a last part of a sector up with zeros"
    )]
    Size {
        /// What was to be opened.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Somebody else uses it.
    #[error(
        "disk {path}: another process has it open for {theirs}; end that one, or share the disk read-only \
         between all"
    )]
    Locked {
        /// What was to be opened.
        path: PathBuf,
        /// What the other does with it.
        theirs: &'static str,
    },
    /// A serial number that a driver cannot show.
    #[error(
        "serial number {serial:?}: expected at most {SERIAL_LEN} printable ASCII characters without spaces"
    )]
    Serial {
        /// What was given.
        serial: String,
    },
    /// The host failed.
    #[error("disk {path}: {error}")]
    Host {
        /// What was to be opened.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// An open image, locked against other users.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) file: File,
    pub(super) disk: Disk,
}

/// What there is to know of a disk for judging requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    pub(super) sectors: u64,
    pub(super) read_only: bool,
    /// Parts can be given back to the host and then read as zeros.
    pub(super) punches: bool,
}

impl Image {
    pub(super) fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let failed = |error: io::Error| failure(path, read_only, error);
        // Looked at before it is opened: opening a pipe waits for its other end.
        let kind = path.metadata().map_err(failed)?.file_type();
        let found = match () {
            () if kind.is_file() || kind.is_block_device() => None,
            () if kind.is_dir() => Some("a directory"),
            () if kind.is_fifo() => Some("a pipe"),
            () if kind.is_socket() => Some("a socket"),
            () => Some("a character device"),
        };
        if let Some(found) = found {
            let path = path.into();
            return Err(OpenError::NoImage { path, found });
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(failed)?;
        lock(&file, path, read_only)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if bytes == 0 || !bytes.is_multiple_of(SECTOR) {
            let path = path.into();
            return Err(OpenError::Size { path, bytes });
        }
        let disk = Disk {
            sectors: bytes / SECTOR,
            read_only,
            punches: !read_only && punches(&file, bytes),
        };
        Ok(Self { file, disk })
    }
}

/// One writer, or any number of readers. The lock goes with the file.
fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let (locked, theirs) = match read_only {
        true => (file.try_lock_shared(), "writing"),
        false => (file.try_lock(), "reading or writing"),
    };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
            path: path.into(),
            theirs,
        }),
        Err(TryLockError::Error(error)) => Err(failure(path, read_only, error)),
    }
}

/// Whether the host can make holes in the file: asked behind its end, where there is nothing to lose.
fn punches(file: &File, bytes: u64) -> bool {
    match fallocate(file, FallocateMode::PunchHole, true, bytes, SECTOR) {
        Ok(()) => true,
        // A block device can, but not behind its end.
        Err(error) => error.errno() == libc::EINVAL,
    }
}

fn failure(path: &Path, read_only: bool, error: io::Error) -> OpenError {
    let path = path.into();
    let (wanted, hint) = match read_only {
        true => ("reading", ""),
        false => ("reading and writing", ", or use the disk read-only"),
    };
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::NotFound { path },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::Denied { path, wanted, hint }
        }
        _ => OpenError::Host { path, error },
    }
}

/// A serial number as the device gives it: filled up with zeros.
pub(super) fn serial(text: Option<&str>) -> Result<[u8; SERIAL_LEN], OpenError> {
    let text = text.unwrap_or_default();
    let mut serial = [0; SERIAL_LEN];
    match serial.get_mut(..text.len()) {
        Some(room) if text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            room.copy_from_slice(text.as_bytes());
            Ok(serial)
        }
        _ => Err(OpenError::Serial {
            serial: text.into(),
        }),
    }
}
