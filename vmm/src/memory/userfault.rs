//! The few operations of userfaultfd on which the memory system stands.
//!
//! Frames travel by [`move_pages`](Userfault::move_pages) (`UFFDIO_MOVE`, Linux 6.8): nothing is copied, and
//! no frame is ever mapped twice. [`copy_pages`](Userfault::copy_pages) (`UFFDIO_COPY`) allocates a frame for each page, which its
//! caller has counted; it interrupts no other CPU, as a move does. `UFFDIO_ZEROPAGE` is left out on purpose: it maps the
//! shared zero page, whose first write allocates a frame that nobody counted; so does the `ALLOW_SRC_HOLES` mode of a move.
//!
//! Ranges are in bytes, multiples of 4 KiB. Kernel side: `mm/userfaultfd.c`, `fs/userfaultfd.c`.

mod abi;
mod bringing;
mod open;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

#[cfg(doc)]
use super::pagemap::Pagemap;
use gmem_core::page::PAGE_SIZE;

pub use open::{Features, OpenError, Reading};

/// Events that one read can return at most.
pub const EVENTS_PER_READ: usize = 64;

/// Which accesses of a registered range become events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Writes to write-protected pages only: for the arena, whose frames are created by plain writes of
    /// this process and must not raise events.
    WriteProtect,
    /// Accesses to pages that are not there, and writes to write-protected pages: for guest RAM.
    MissingAndWriteProtect,
}

impl Mode {
    const fn bits(self) -> u64 {
        match self {
            Self::WriteProtect => abi::REGISTER_WP,
            Self::MissingAndWriteProtect => abi::REGISTER_MISSING | abi::REGISTER_WP,
        }
    }
}

/// Whether a move wakes the threads that wait for the pages it brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waking {
    /// They run as soon as their page is there.
    Now,
    /// They sleep on until [`Userfault::wake`].
    Later,
}

/// An access that waits for its page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Address of the faulting page's first byte.
    pub address: usize,
    /// The access is a write.
    pub write: bool,
    /// The page is there and write-protected; otherwise it is missing.
    pub write_protected: bool,
    /// The thread that waits (`gettid`).
    pub thread: u32,
}

/// A userfaultfd whose handshake is done.
///
/// All methods may be called from any thread. Dropping the last owner closes it, which lets every waiting
/// access find zeros instead of its page: no vCPU may be able to run by then.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
}

impl Userfault {
    /// Opens one with [`Features::REQUIRED`], which handles faults of user and kernel mode.
    ///
    /// Must be called before privileges drop.
    ///
    /// # Errors
    /// See [`OpenError`]: each names its remedy.
    pub fn open(reading: Reading) -> Result<Self, OpenError> {
        Self::open_with(reading, Features::default())
    }

    /// Like [`open`](Self::open), with `more` features enabled beside the required ones.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_with(reading: Reading, more: Features) -> Result<Self, OpenError> {
        Self::adopt(open::descriptor(reading)?, more)
    }

    /// Takes over a fresh descriptor that somebody else opened, a launcher with more privileges for example.
    ///
    /// # Errors
    /// [`OpenError::MissingFeatures`] if the kernel lacks a required feature or one of `more`;
    /// [`OpenError::System`] if `fd` is not a userfaultfd or its handshake was already done.
    pub fn adopt(fd: OwnedFd, more: Features) -> Result<Self, OpenError> {
        let wanted = Features::REQUIRED.and(more);
        match open::handshake(&fd, wanted) {
            Ok(_) => Ok(Self { fd }),
            Err(source) => {
                let missing = wanted.without(Self::features()?);
                if missing == Features::default() {
                    Err(OpenError::System {
                        step: "agree on userfaultfd's features",
                        source,
                    })
                } else {
                    Err(OpenError::MissingFeatures {
                        missing,
                        release: open::release(),
                    })
                }
            }
        }
    }

    /// Every feature that this kernel's userfaultfd has.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn features() -> Result<Features, OpenError> {
        let fd = open::descriptor(Reading::Polled)?;
        open::handshake(&fd, Features::default()).map_err(|source| OpenError::System {
            step: "ask for userfaultfd's features",
            source,
        })
    }

    /// Makes accesses to a range of private anonymous memory events of this userfaultfd.
    ///
    /// Both ends of a move must be registered with the same userfaultfd. Pages that are present stay so
    /// and raise no event: adopt them (see [`Pagemap`]).
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for a range that is not mapped, not aligned or not anonymous, `EBUSY` if it
    /// is registered with another userfaultfd.
    pub fn register(&self, start: usize, len: usize, mode: Mode) -> io::Result<()> {
        let mut request = abi::Register {
            range: range(start, len),
            mode: mode.bits(),
            ioctls: 0,
        };
        self.request(abi::UFFDIO_REGISTER, &raw mut request)
    }

    /// Ends the registration of a range.
    ///
    /// Forbidden while a vCPU or a device thread can run: an access that waits in the range is let go and
    /// reads zeros, as does every later one. Its only use is to take memory apart after they were joined.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for a range that is not mapped or not aligned.
    pub fn unregister(&self, start: usize, len: usize) -> io::Result<()> {
        let mut request = range(start, len);
        self.request(abi::UFFDIO_UNREGISTER, &raw mut request)
    }

    /// Wakes whoever waits for a page of the range; they try their access again.
    ///
    /// Needed after [`Waking::Later`], and for an event whose page turned out to be present.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` for a range that is empty or not aligned.
    pub fn wake(&self, start: usize, len: usize) -> io::Result<()> {
        let mut request = range(start, len);
        self.request(abi::UFFDIO_WAKE, &raw mut request)
    }

    /// Write-protects the range (`on`), or takes the protection away and wakes who waits to write.
    ///
    /// Pages that are not there are passed over, unless the userfaultfd was opened with
    /// [`Features::WP_UNPOPULATED`].
    ///
    /// # Errors
    /// The kernel's: `ENOENT` if the range is not registered.
    pub fn write_protect(&self, start: usize, len: usize, on: bool) -> io::Result<()> {
        let mut request = abi::WriteProtect {
            range: range(start, len),
            mode: if on { abi::WRITEPROTECT_WP } else { 0 },
        };
        self.request(abi::UFFDIO_WRITEPROTECT, &raw mut request)
    }

    /// Takes write protection away from the range.
    ///
    /// # Errors
    /// As [`write_protect`](Self::write_protect).
    pub fn unprotect(&self, start: usize, len: usize, waking: Waking) -> io::Result<()> {
        let mut request = abi::WriteProtect {
            range: range(start, len),
            mode: match waking {
                Waking::Now => 0,
                Waking::Later => abi::WRITEPROTECT_DONTWAKE,
            },
        };
        self.request(abi::UFFDIO_WRITEPROTECT, &raw mut request)
    }

    /// Marks absent pages as lost, and wakes who waits for them: they get a machine check or `SIGBUS`, and a
    /// vCPU leaves KVM. For a page whose bytes cannot be had again; the microVM ends.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` if a page is present.
    pub fn poison(&self, start: usize, len: usize) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let mut request = abi::Poison {
                range: range(start + done, len - done),
                mode: 0,
                updated: 0,
            };
            let result = self.request(abi::UFFDIO_POISON, &raw mut request);
            let progress = usize::try_from(request.updated).unwrap_or(0);
            done += progress;
            match result {
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && progress > 0 => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// Reads waiting events, up to [`EVENTS_PER_READ`] or as many as `events` holds; returns how many.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if there is none ([`Reading::Polled`] only),
    /// [`io::ErrorKind::Interrupted`] if a signal came, [`io::ErrorKind::InvalidData`] if the kernel sent
    /// an event that was never asked for.
    pub fn read_events(&self, events: &mut [Event]) -> io::Result<usize> {
        let mut messages = [abi::Message::default(); EVENTS_PER_READ];
        let wanted = events.len().min(EVENTS_PER_READ) * size_of::<abi::Message>();
        // SAFETY: `messages` is exclusively ours and at least `wanted` bytes long; any bytes make a valid
        // `Message`.
        let bytes =
            unsafe { libc::read(self.fd.as_raw_fd(), messages.as_mut_ptr().cast(), wanted) };
        let Ok(bytes) = usize::try_from(bytes) else {
            return Err(io::Error::last_os_error());
        };
        let count = bytes / size_of::<abi::Message>();
        for (event, message) in events.iter_mut().zip(&messages[..count]) {
            *event = decode(message)?;
        }
        Ok(count)
    }

    /// The address of the next fault, read alone; none if there is none to be read now, or a signal came.
    pub fn next_address(&self) -> io::Result<Option<usize>> {
        let mut events = [Event::default()];
        match self.read_events(&mut events) {
            Ok(count) => Ok((count > 0).then_some(events[0].address)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn request<T>(&self, number: libc::c_ulong, argument: *mut T) -> io::Result<()> {
        // SAFETY: every caller passes a pointer to its own live variable of the type whose size is part of
        // `number`, which is all the kernel reads and writes there. What a request does to the *memory it
        // names* is the contract of guest memory: it is reached by raw pointers only, never by references
        // of Rust that assume it stays in place.
        match unsafe { libc::ioctl(self.fd.as_raw_fd(), number, argument) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Userfault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const fn range(start: usize, len: usize) -> abi::Range {
    abi::Range {
        start: start as u64,
        len: len as u64,
    }
}

fn decode(message: &abi::Message) -> io::Result<Event> {
    if message.event != abi::EVENT_PAGEFAULT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "userfaultfd sent event {:#x}, expected {:#x} (page fault)",
                message.event,
                abi::EVENT_PAGEFAULT
            ),
        ));
    }
    Ok(Event {
        address: message.address as usize & !(PAGE_SIZE - 1),
        write: message.flags & abi::FAULT_WRITE != 0,
        write_protected: message.flags & abi::FAULT_WP != 0,
        thread: message.thread,
    })
}
