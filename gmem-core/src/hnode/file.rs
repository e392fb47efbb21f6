//! A file as memory: pages in a file of fixed size that has no name once it is open.

use super::frames::Frames;
use super::{
    Capabilities, Frame, Hnode, Kind, LatencyClass, LoadError, Owner, StoreError, Usage, unit_of,
};
use crate::bytes::Bytes;
use crate::page::{PAGE_SIZE, Unit};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file tier.
pub struct FileTier {
    name: String,
    file: File,
    frames: Frames,
}

/// Why a file tier could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FileTierError {
    /// The file is there already, and might be somebody's.
    #[error("file tier: {path} exists; name a file that does not exist, or a directory")]
    Exists {
        /// What was asked for.
        path: PathBuf,
    },
    /// It cannot be created.
    #[error(
        "file tier: cannot create a file at {path}: {source}; name a directory that exists and can be written"
    )]
    Create {
        /// What was asked for.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file system has not the room.
    #[error(
        "file tier: the file system of {path} has no room for {bytes} ({source}); free some, or make the tier smaller"
    )]
    Room {
        /// What was asked for.
        path: PathBuf,
        /// How much.
        bytes: Bytes,
        /// What the system says.
        source: io::Error,
    },
}

impl FileTier {
    /// A tier of `bytes` (rounded down to pages) in a new file at `path`, or in the directory `path`.
    ///
    /// The room is allocated now, so that a full disk is found before the guest runs, and the file's
    /// name is removed at once, so that nothing stays behind however the process ends. Uses direct I/O
    /// where the file system can, because the page cache would hold a second copy in RAM.
    pub fn new(name: impl Into<String>, bytes: u64, path: &Path) -> Result<Self, FileTierError> {
        let pages = bytes / PAGE_SIZE as u64;
        let bytes = pages * PAGE_SIZE as u64;
        let (file, created) = open(path)?;
        // SAFETY: a valid descriptor.
        let allocated = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) };
        let refused = (allocated != 0).then(io::Error::last_os_error);
        if let Some(created) = created {
            std::fs::remove_file(created).map_err(|source| FileTierError::Create {
                path: path.into(),
                source,
            })?;
        }
        match refused {
            // Not every file system can allocate; on such a one the room is found missing when it is used.
            Some(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => {
                Err(FileTierError::Room {
                    path: path.into(),
                    bytes: Bytes(bytes),
                    source: error,
                })
            }
            _ => Ok(Self {
                name: name.into(),
                file,
                frames: Frames::new(pages),
            }),
        }
    }
}

/// Opens a new file, with the path at which it can be seen, if at any.
fn open(path: &Path) -> Result<(File, Option<&Path>), FileTierError> {
    let directory = path.is_dir();
    let attempt = |direct: i32| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if directory {
            options.custom_flags(libc::O_TMPFILE | direct | libc::O_CLOEXEC);
        } else {
            options
                .create_new(true)
                .custom_flags(direct | libc::O_CLOEXEC);
        }
        options.open(path)
    };
    // A file system without direct I/O says EINVAL, some only after they made the file.
    let file = attempt(libc::O_DIRECT).or_else(|error| {
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(error);
        }
        if !directory {
            let _ = std::fs::remove_file(path);
        }
        attempt(0)
    });
    match file {
        Ok(file) => Ok((file, (!directory).then_some(path))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(FileTierError::Exists { path: path.into() })
        }
        Err(source) => Err(FileTierError::Create {
            path: path.into(),
            source,
        }),
    }
}

fn offset(frame: Frame) -> u64 {
    frame.0 * PAGE_SIZE as u64
}

impl Hnode for FileTier {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        Kind::File
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            cpu_addressable: false,
            blocks: true,
            persistent: false,
            latency: LatencyClass::Device,
            owner: Owner::Process,
        }
    }

    fn usage(&self) -> Usage {
        self.frames.usage()
    }

    fn guaranteed_pages(&self) -> u64 {
        self.frames.total()
    }

    fn free_pages(&self) -> u64 {
        self.frames.free_pages()
    }

    fn store(&self, bytes: &[u8]) -> Result<Frame, StoreError> {
        let unit = unit_of(bytes.len())?;
        let frame = self.frames.take(unit).ok_or(StoreError::Full)?;
        self.file
            .write_all_at(bytes, offset(frame))
            .map_err(|error| {
                self.frames.give_back(frame, unit);
                match error.raw_os_error() {
                    // The disk is full although the room was allocated (or could not be): as good as no room.
                    Some(libc::ENOSPC | libc::EDQUOT) => StoreError::Full,
                    _ => StoreError::Io(error),
                }
            })?;
        Ok(frame)
    }

    fn load(&self, frame: Frame, into: &mut [u8]) -> Result<(), LoadError> {
        Ok(self.file.read_exact_at(into, offset(frame))?)
    }

    fn free(&self, frame: Frame, unit: Unit) {
        self.frames.give_back(frame, unit);
    }

    /// Frames that follow each other in the file are read at once.
    fn load_pages(&self, frames: &[Frame], into: &mut [u8]) -> Result<(), LoadError> {
        let mut first = 0;
        while first < frames.len() {
            let together = frames[first..]
                .iter()
                .enumerate()
                .take_while(|(at, frame)| frame.0 == frames[first].0 + *at as u64)
                .count();
            let bytes = &mut into[first * PAGE_SIZE..(first + together) * PAGE_SIZE];
            self.file.read_exact_at(bytes, offset(frames[first]))?;
            first += together;
        }
        Ok(())
    }

    /// Frames that follow each other in the file are written at once.
    fn store_pages(
        &self,
        bytes: &[u8],
        stored: &mut dyn FnMut(usize, Frame),
    ) -> Result<usize, StoreError> {
        let pages = bytes.len() / PAGE_SIZE;
        let mut first = 0;
        let mut carried = None;
        while first < pages {
            let Some(start) = carried.take().or_else(|| self.frames.take(Unit::Page)) else {
                break;
            };
            let mut together = 1;
            while first + together < pages {
                match self.frames.take(Unit::Page) {
                    Some(frame) if frame.0 == start.0 + together as u64 => together += 1,
                    other => {
                        carried = other;
                        break;
                    }
                }
            }
            let written = self.file.write_all_at(
                &bytes[first * PAGE_SIZE..(first + together) * PAGE_SIZE],
                offset(start),
            );
            if let Err(error) = written {
                let taken = (0..together as u64)
                    .map(|at| Frame(start.0 + at))
                    .chain(carried);
                taken.for_each(|frame| self.frames.give_back(frame, Unit::Page));
                return match error.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT) => Ok(first),
                    _ => Err(error.into()),
                };
            }
            for at in 0..together {
                stored(first + at, Frame(start.0 + at as u64));
            }
            first += together;
        }
        if let Some(frame) = carried {
            self.frames.give_back(frame, Unit::Page);
        }
        Ok(first)
    }
}
