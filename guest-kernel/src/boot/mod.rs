//! What the monitor hands over at the entry: Xen's `hvm_start_info`, and in it the command line.

use crate::memory::Region;
use core::fmt;
use gmem_wire::layout::{COMMAND_LINE_SIZE, VIRTIO_DEVICES};

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// `hvm_start_info`, version 1.
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

/// `hvm_memmap_table_entry`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MapEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

/// What is wrong with what the monitor handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The structure does not begin with Xen's magic number, but with this one.
    Magic(u32),
    /// Version 0 has no memory map.
    Version(u32),
    /// The command line is longer than [`COMMAND_LINE_SIZE`] or not UTF-8.
    CommandLine,
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(found) => write!(
                f,
                "hvm_start_info begins with {found:#x}, expected {MAGIC:#x}"
            ),
            Self::Version(found) => write!(
                f,
                "hvm_start_info has version {found}, expected at least 1, which has a memory map"
            ),
            Self::CommandLine => write!(
                f,
                "the command line is not UTF-8 or not shorter than {COMMAND_LINE_SIZE} bytes"
            ),
        }
    }
}

/// Memory and command line, as found in guest memory.
pub struct Handover {
    command_line: &'static str,
    map: &'static [MapEntry],
}

impl Handover {
    /// Reads `hvm_start_info` at `address`.
    ///
    /// # Safety
    ///
    /// The monitor wrote the structure there, what it points to is readable, and nothing writes to any of
    /// it for as long as the handover is used.
    ///
    /// # Errors
    ///
    /// If it is no such structure, too old, or the command line is not a text.
    pub unsafe fn read(address: u64) -> Result<Self, StartInfoError> {
        // SAFETY: readable, as promised; the structure has no invalid values.
        let info = unsafe { (address as *const StartInfo).read_unaligned() };
        if info.magic != MAGIC {
            return Err(StartInfoError::Magic(info.magic));
        }
        if info.version == 0 {
            return Err(StartInfoError::Version(info.version));
        }
        let command_line = if info.command_line == 0 {
            ""
        } else {
            // SAFETY: readable, as promised.
            unsafe { text(info.command_line as *const u8)? }
        };
        let map: &[MapEntry] = if info.memory_map == 0 {
            &[]
        } else {
            // SAFETY: readable, as promised; Xen's interface aligns the table to 8 bytes.
            unsafe {
                core::slice::from_raw_parts(
                    info.memory_map as *const MapEntry,
                    info.memory_map_entries as usize,
                )
            }
        };
        Ok(Self { command_line, map })
    }

    /// The command line.
    pub fn command_line(&self) -> CommandLine<'static> {
        CommandLine::parse(self.command_line)
    }

    /// The RAM of the memory map.
    pub fn ram(&self) -> impl Iterator<Item = Region> + use<> {
        let map = self.map;
        map.iter()
            .filter(|entry| entry.kind == RAM)
            .map(|entry| Region {
                start: entry.address,
                end: entry.address.saturating_add(entry.size),
            })
    }
}

/// # Safety
///
/// Bytes up to a NUL, or [`COMMAND_LINE_SIZE`] of them, are readable.
unsafe fn text(start: *const u8) -> Result<&'static str, StartInfoError> {
    // SAFETY: no further than the first NUL, as promised.
    let length = (0..COMMAND_LINE_SIZE).find(|&at| unsafe { start.add(at).read() } == 0);
    let length = length.ok_or(StartInfoError::CommandLine)?;
    // SAFETY: these bytes were just read.
    let bytes = unsafe { core::slice::from_raw_parts(start, length) };
    core::str::from_utf8(bytes).map_err(|_| StartInfoError::CommandLine)
}

/// `gmem.cpus=N gmem.tsc_khz=K gmem.devices=D -- WORKLOAD key=value ...`; words that are not known are another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// vCPUs that enter the guest, at least 1.
    pub cpus: usize,
    /// Frequency of the TSC in kHz, if the monitor says so.
    pub tsc_khz: Option<u64>,
    /// Virtio devices.
    pub devices: usize,
    /// The workload and its options.
    pub workload: &'a str,
}

impl<'a> CommandLine<'a> {
    /// Takes the line apart. A number that is none, or 0, counts as absent.
    pub fn parse(line: &'a str) -> Self {
        let (machine, workload) = match line.strip_prefix("-- ") {
            Some(workload) => ("", workload),
            None => line.split_once(" -- ").unwrap_or((line, "")),
        };
        let number = |key: &str| {
            let value = machine
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
            value.parse::<u64>().ok().filter(|&number| number > 0)
        };
        Self {
            cpus: number("gmem.cpus").map_or(1, |cpus| cpus as usize),
            tsc_khz: number("gmem.tsc_khz"),
            devices: number("gmem.devices")
                .map_or(0, |devices| (devices as usize).min(VIRTIO_DEVICES)),
            workload: workload.trim_ascii(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_monitors_line() {
        let line = "gmem.cpus=2 gmem.tsc_khz=2400000 gmem.devices=3 -- verify epochs=3 seed=7";
        let expected = CommandLine {
            cpus: 2,
            tsc_khz: Some(2_400_000),
            devices: 3,
            workload: "verify epochs=3 seed=7",
        };
        assert_eq!(CommandLine::parse(line), expected);
    }

    #[test]
    fn strange_lines() {
        let parts = |line| {
            let found = CommandLine::parse(line);
            (found.cpus, found.tsc_khz, found.workload)
        };
        assert_eq!(parts(""), (1, None, ""));
        assert_eq!(parts("-- none"), (1, None, "none"));
        assert_eq!(parts("console=ttyS0 gmem.cpus=x --"), (1, None, ""));
        assert_eq!(
            parts("gmem.cpus=0 gmem.tsc_khz=0 --  scan "),
            (1, None, "scan")
        );
        assert_eq!(parts("gmem.cpus2=3 -- a -- b"), (1, None, "a -- b"));
    }

    fn start_info(magic: u32, version: u32, line: &[u8], map: &[MapEntry]) -> StartInfo {
        StartInfo {
            magic,
            version,
            flags: 0,
            modules: 0,
            module_list: 0,
            command_line: line.as_ptr() as u64,
            rsdp: 0,
            memory_map: map.as_ptr() as u64,
            memory_map_entries: map.len() as u32,
            reserved: 0,
        }
    }

    fn read(info: &StartInfo) -> Result<Handover, StartInfoError> {
        // SAFETY: the tests' structures outlive the handover and are not written to.
        unsafe { Handover::read(core::ptr::from_ref(info) as u64) }
    }

    #[test]
    fn memory_map_and_command_line_are_found() {
        let entry = |address, size, kind| MapEntry {
            address,
            size,
            kind,
            reserved: 0,
        };
        let map = [
            entry(0, 0x9f000, 1),
            entry(0xf0000, 0x10000, 2),
            entry(0x10_0000, 0x70_0000, 1),
        ];
        let info = start_info(MAGIC, 1, b"gmem.cpus=3 -- none\0", &map);
        let handover = read(&info).unwrap();
        assert_eq!(handover.command_line().cpus, 3);
        let ram: Vec<_> = handover
            .ram()
            .map(|region| (region.start, region.end))
            .collect();
        assert_eq!(ram, [(0, 0x9f000), (0x10_0000, 0x80_0000)]);
    }

    #[test]
    fn foreign_structures_are_refused() {
        let error =
            |magic, version, line: &[u8]| read(&start_info(magic, version, line, &[])).err();
        assert_eq!(error(1, 1, b"\0"), Some(StartInfoError::Magic(1)));
        assert_eq!(error(MAGIC, 0, b"\0"), Some(StartInfoError::Version(0)));
        assert_eq!(
            error(MAGIC, 1, b"\xff\0"),
            Some(StartInfoError::CommandLine)
        );
        let long = [b'a'; COMMAND_LINE_SIZE];
        assert_eq!(error(MAGIC, 1, &long), Some(StartInfoError::CommandLine));
    }
}
