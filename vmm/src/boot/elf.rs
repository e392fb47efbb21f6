//! Loading a kernel: a 64-bit x86 ELF file, by itself or in a bzImage, into guest memory, checked before a byte is written.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use gmem_wire::layout;
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::ReadVolatile;

use super::bytes::{u16_at, u32_at, u64_at};
use super::{Entry, Protocol, bzimage, notes};
use crate::memory::ram::GuestRam;

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where and how it is entered.
    pub entry: Entry,
    /// One past its last guest-physical address.
    pub end: u64,
}

/// Why a kernel could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened or read.
    #[error("kernel {} cannot be read: {source}; check --kernel", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("kernel {} is not a 64-bit x86 ELF file: {found}; {remedy}", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The file contradicts itself.
    #[error("kernel {} is damaged: {what}; build or copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
    /// A part of the kernel belongs where the guest has no memory.
    #[error(
        "kernel {} wants guest-physical addresses {start:#x} to {end:#x}, the guest has {memory} bytes of memory (a hole from 3 GiB to 4 GiB left out); give it more --memory or link the kernel lower",
        path.display()
    )]
    OutsideMemory {
        /// The file.
        path: PathBuf,
        /// First address of the part.
        start: u64,
        /// One past its last address.
        end: u64,
        /// The guest's memory, bytes.
        memory: u64,
    },
    /// A part of the kernel belongs where the monitor puts page tables and boot information.
    #[error(
        "kernel {} wants guest-physical addresses {start:#x} to {end:#x}, which overlap what the monitor fills ({:#x} to {:#x}); link the kernel at 1 MiB or above",
        path.display(), layout::START_INFO, layout::FIRMWARE_END
    )]
    LowMemory {
        /// The file.
        path: PathBuf,
        /// First address of the part.
        start: u64,
        /// One past its last address.
        end: u64,
    },
}

const HEADER: usize = 64;
/// Enough of a file to tell what it is.
const HEADERS: u64 = 0x210;
const PROGRAM_HEADER: usize = 56;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const TYPE_EXECUTABLE: u16 = 2;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Notes are small; a huge one is damage, and would be read note by note.
const MAX_NOTES: u64 = 1 << 20;

/// Loads the kernel at `path`, an ELF file or a bzImage with one inside. Linux is entered by its own 64-bit protocol,
/// by which it is told most; others by PVH if they have its note, and as Linux if not.
pub fn load_file(ram: &GuestRam, path: &Path) -> Result<Kernel, KernelError> {
    let unreadable = |source| KernelError::Read {
        path: path.into(),
        source,
    };
    // Asked before it is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut start = Vec::new();
    let header = file.by_ref().take(HEADERS).read_to_end(&mut start);
    header.map_err(unreadable)?;
    if !bzimage::is(&start) {
        return load(ram, &mut file, path);
    }
    let kernel = fs::read(path).map_err(unreadable)?;
    let kernel = bzimage::unpack(&kernel).map_err(|what| KernelError::Damaged {
        path: path.into(),
        what,
    })?;
    load(ram, &mut Cursor::new(kernel.as_slice()), path)
}

/// Loads the ELF image of the bundled guest, to be entered by its own protocol whatever notes it has.
pub fn load_bundled(ram: &GuestRam, image: &'static [u8]) -> Result<Kernel, KernelError> {
    let mut kernel = load(ram, &mut Cursor::new(image), Path::new("(bundled guest)"))?;
    kernel.entry = Entry {
        address: u64_at(image, 24),
        protocol: Protocol::Bundled,
    };
    Ok(kernel)
}

fn load<F: Read + ReadVolatile + Seek>(
    ram: &GuestRam,
    image: &mut F,
    path: &Path,
) -> Result<Kernel, KernelError> {
    let checked = check(ram, image, path)?;
    let loaded =
        Elf::load(ram.view(), None, image, None).map_err(|error| KernelError::Damaged {
            path: path.into(),
            what: error.to_string(),
        })?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) if !checked.linux => Entry {
            address: address.0,
            protocol: Protocol::Pvh,
        },
        _ => Entry {
            address: loaded.kernel_load.0,
            protocol: Protocol::Linux64,
        },
    };
    if !ram.contains(entry.address, 1) {
        return Err(KernelError::Damaged {
            path: path.into(),
            what: format!("its entry point {:#x} is not in memory", entry.address),
        });
    }
    Ok(Kernel {
        entry,
        end: checked.end,
    })
}

/// What the headers say.
struct Checked {
    /// The end of the last part, guest-physical.
    end: u64,
    /// Whether it is Linux.
    linux: bool,
}

/// Checks the headers against the file and the guest's memory.
fn check<F: Read + Seek>(
    ram: &GuestRam,
    image: &mut F,
    path: &Path,
) -> Result<Checked, KernelError> {
    let unreadable = |source| KernelError::Read {
        path: path.into(),
        source,
    };
    let damaged = |what: String| KernelError::Damaged {
        path: path.into(),
        what,
    };
    let size = image.seek(SeekFrom::End(0)).map_err(unreadable)?;
    image.rewind().map_err(unreadable)?;
    let mut start = Vec::new();
    image
        .by_ref()
        .take(HEADERS)
        .read_to_end(&mut start)
        .map_err(unreadable)?;
    if let Some((found, remedy)) = foreign(&start) {
        return Err(KernelError::NotElf {
            path: path.into(),
            found,
            remedy,
        });
    }
    let (offset, count) = (u64_at(&start, 32), u64::from(u16_at(&start, 56)));
    if usize::from(u16_at(&start, 54)) != PROGRAM_HEADER {
        return Err(damaged("its program headers have an odd size".into()));
    }
    let within_file =
        |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= size);
    let table_len = count * PROGRAM_HEADER as u64;
    if !within_file(offset, table_len) {
        return Err(damaged("its program headers lie beyond its end".into()));
    }
    image.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut table = vec![0; table_len as usize];
    image.read_exact(&mut table).map_err(unreadable)?;
    let mut checked = Checked {
        end: 0,
        linux: false,
    };
    for header in table.chunks_exact(PROGRAM_HEADER) {
        let (offset, in_file) = (u64_at(header, 8), u64_at(header, 32));
        let kind = u32_at(header, 0);
        if !matches!(kind, PT_LOAD | PT_NOTE) {
            continue;
        }
        if !within_file(offset, in_file) {
            return Err(damaged("a part of it lies beyond its end".into()));
        }
        if kind == PT_NOTE {
            if in_file > MAX_NOTES {
                return Err(damaged(format!("its notes have {in_file} bytes")));
            }
            let mut bytes = vec![0; in_file as usize];
            image.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
            image.read_exact(&mut bytes).map_err(unreadable)?;
            checked.linux |= notes::are_linux(&bytes);
            continue;
        }
        checked.end = checked.end.max(check_segment(ram, header, path)?);
    }
    if checked.end == 0 {
        return Err(damaged("it has nothing to load".into()));
    }
    Ok(checked)
}

/// Checks one part that is to be loaded; returns its end.
fn check_segment(ram: &GuestRam, header: &[u8], path: &Path) -> Result<u64, KernelError> {
    let (start, in_file, in_memory) = (u64_at(header, 24), u64_at(header, 32), u64_at(header, 40));
    if in_file > in_memory {
        return Err(KernelError::Damaged {
            path: path.into(),
            what: "a part of it is larger in the file than in memory".into(),
        });
    }
    if in_memory == 0 {
        return Ok(0);
    }
    let end = start.saturating_add(in_memory);
    if !ram.contains(start, in_memory) {
        return Err(KernelError::OutsideMemory {
            path: path.into(),
            start,
            end,
            memory: ram.size(),
        });
    }
    if start < layout::FIRMWARE_END && end > layout::START_INFO {
        return Err(KernelError::LowMemory {
            path: path.into(),
            start,
            end,
        });
    }
    Ok(end)
}

/// What the file is, if it is not an ELF executable for this processor, and what to do about it.
fn foreign(start: &[u8]) -> Option<(String, &'static str)> {
    const GIVE_VMLINUX: &str = "give an uncompressed 64-bit kernel (Linux: the file vmlinux)";
    if start.len() < HEADER {
        return Some((format!("it has only {} bytes", start.len()), GIVE_VMLINUX));
    }
    if !start.starts_with(b"\x7fELF") {
        let magic = &start[..4];
        return Some((
            format!("it begins with the bytes {magic:02x?}"),
            GIVE_VMLINUX,
        ));
    }
    let found = if start[4] != CLASS_64 {
        "it is a 32-bit ELF file".into()
    } else if start[5] != LITTLE_ENDIAN {
        "it is a big-endian ELF file".into()
    } else if u16_at(start, 18) != MACHINE_X86_64 {
        format!(
            "it is for another processor (ELF machine {})",
            u16_at(start, 18)
        )
    } else if u16_at(start, 16) != TYPE_EXECUTABLE {
        format!("it is not an executable (ELF type {})", u16_at(start, 16))
    } else {
        return None;
    };
    Some((found, GIVE_VMLINUX))
}
