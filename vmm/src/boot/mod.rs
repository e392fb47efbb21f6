//! What stands in guest memory before the first instruction: a kernel, its command line, a map of the memory,
//! page tables.
//!
//! [`elf`] loads the kernel, [`write()`] adds the rest as the kernel's [`Protocol`] wants it: [`pvh`]'s
//! `hvm_start_info`, or [`linux`]'s `boot_params`, with [`acpi`]'s tables and the [`mp_table`] beside them; [`long_mode`] makes the page tables of 64-bit entries.
mod acpi;
pub mod bundled;
mod bytes;
mod bzimage;
pub mod elf;
mod initrd;
mod linux;
mod long_mode;
mod memory_map;
mod mp_table;
mod notes;
mod pvh;

use std::io;
use std::path::PathBuf;

use gmem_wire::layout;

use crate::memory::ram::{GuestRam, NotRam};

pub use linux::{GDT as LINUX_GDT, GDT_LIMIT as LINUX_GDT_LIMIT};

/// The least memory a guest can have, bytes: the first 2 MiB, part of which the monitor fills.
pub const MINIMUM_MEMORY: u64 = 2 << 20;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The bundled guest's own: 64-bit mode, all vCPUs at once. See [`gmem_wire`].
    Bundled,
    /// Linux's 64-bit boot protocol: the boot vCPU alone, `boot_params`.
    Linux64,
    /// Xen's PVH: 32-bit protected mode, the boot vCPU alone, `hvm_start_info`.
    Pvh,
}

/// Where and how vCPUs enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Guest-physical address of the first instruction.
    pub address: u64,
    /// What the kernel expects to find.
    pub protocol: Protocol,
}

/// What of the machine kernels are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// How many processors.
    pub cpus: u8,
    /// How many virtio devices.
    pub virtio_devices: u8,
}

/// Why the memory could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The guest is too small to start anything.
    #[error(
        "guest memory of {found} bytes is too little to start in; give at least {MINIMUM_MEMORY} bytes"
    )]
    TooSmall {
        /// What the guest has, bytes.
        found: u64,
    },
    /// The command line does not fit.
    #[error(
        "the guest's command line has {found} bytes, at most {limit} fit; shorten --cmdline or --workload"
    )]
    CommandLine {
        /// Length, bytes.
        found: usize,
        /// Most that fits, bytes.
        limit: usize,
    },
    /// A NUL would end the command line early.
    #[error("the guest's command line contains a NUL byte; remove it")]
    CommandLineNul,
    /// The initial RAM disk cannot be read.
    #[error("initrd {} cannot be read: {source}; check --initrd", path.display())]
    ReadInitrd {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The initial RAM disk does not fit.
    #[error(
        "initrd {} has {size} bytes, only {room} are free above the kernel; give the guest more --memory",
        path.display()
    )]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
        /// What is free, bytes.
        room: u64,
    },
    /// The host has no random bytes for the guest.
    #[error("the host gave no random bytes for the guest: {0}; is getrandom forbidden here?")]
    Seed(io::Error),
    /// An address that the monitor fills is not RAM: impossible from [`MINIMUM_MEMORY`] on.
    #[error(transparent)]
    Write(#[from] NotRam),
}

/// Fills the guest's low memory for `kernel`, entered by its protocol, on `platform`.
///
/// `initrd` is loaded at the end of the memory below the hole for devices; the bundled guest has none.
pub fn write(
    ram: &GuestRam,
    kernel: &elf::Kernel,
    platform: &Platform,
    command_line: &str,
    initrd: Option<&PathBuf>,
) -> Result<(), BootError> {
    if ram.size() < MINIMUM_MEMORY {
        return Err(BootError::TooSmall { found: ram.size() });
    }
    write_command_line(ram, command_line)?;
    let initrd = initrd
        .map(|path| initrd::load(ram, kernel.end, path))
        .transpose()?;
    match kernel.entry.protocol {
        Protocol::Bundled => {
            pvh::write(ram, None)?;
            return Ok(long_mode::write(ram)?);
        }
        Protocol::Pvh => pvh::write(ram, initrd)?,
        Protocol::Linux64 => {
            let mut seed = linux::Seed::default();
            getrandom::fill(&mut seed).map_err(|error| BootError::Seed(io::Error::other(error)))?;
            linux::write(ram, command_line.len(), initrd, &seed)?;
            long_mode::write(ram)?;
        }
    }
    mp_table::write(ram, platform.cpus)?;
    Ok(acpi::write(ram, platform)?)
}

fn write_command_line(ram: &GuestRam, text: &str) -> Result<(), BootError> {
    let limit = layout::COMMAND_LINE_SIZE - 1;
    if text.len() > limit {
        return Err(BootError::CommandLine {
            found: text.len(),
            limit,
        });
    }
    if text.contains('\0') {
        return Err(BootError::CommandLineNul);
    }
    ram.write(layout::COMMAND_LINE, text.as_bytes())?;
    ram.write(layout::COMMAND_LINE + text.len() as u64, &[0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_that_does_not_fit_is_refused_and_one_that_just_fits_is_not() {
        let ram = GuestRam::new(MINIMUM_MEMORY).unwrap();
        let fits = "x".repeat(layout::COMMAND_LINE_SIZE - 1);
        write_command_line(&ram, &fits).unwrap();
        let mut end = [1; 2];
        let last = layout::COMMAND_LINE + layout::COMMAND_LINE_SIZE as u64 - 2;
        ram.read(last, &mut end).unwrap();
        assert_eq!(&end, b"x\0");
        assert!(matches!(
            write_command_line(&ram, &format!("{fits}x")),
            Err(BootError::CommandLine {
                found: 4096,
                limit: 4095
            })
        ));
        assert!(matches!(
            write_command_line(&ram, "a\0b"),
            Err(BootError::CommandLineNul)
        ));
    }
}
