//! ACPI tables: processors, interrupt controllers, devices and the way to power off, for kernels that look nowhere
//! else.
//!
//! ACPI 6.5, the hardware-reduced kind (4.1): there is no fixed hardware, everything that exists is a device in the
//! DSDT. Virtio devices have the id `LNRO0005`, by which Linux finds virtio-mmio.

use acpi_tables::aml::{Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ResourceTemplate};
use acpi_tables::aml::{PackageBuilder, Path, Scope};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::ProcessorLocalApic;
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use gmem_wire::{layout, port};

use super::Platform;
use crate::memory::ram::{GuestRam, NotRam};

const OEM: [u8; 6] = *b"GMEM  ";
const TABLE: [u8; 8] = *b"MICROVM ";
const REVISION: u32 = 1;
/// Where a PC has the interrupt controllers' registers.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Boot architecture flags: no VGA, no message-signalled interrupts, no clock; a keyboard controller to reset by.
const BOOT_ARCHITECTURE: u16 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5;

/// Writes the tables for `platform`, the pointer to them at [`layout::RSDP`].
pub(super) fn write(ram: &GuestRam, platform: &Platform) -> Result<(), NotRam> {
    let mut tables = Tables {
        ram,
        next: layout::RSDP + Rsdp::len() as u64,
    };
    let dsdt = tables.add(&dsdt(platform))?;
    let fadt = tables.add(&fadt(dsdt))?;
    let madt = tables.add(&madt(platform.cpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = tables.add(&xsdt)?;
    ram.write(layout::RSDP, &bytes(&Rsdp::new(OEM, xsdt)))
}

/// Puts tables one behind the other.
struct Tables<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Tables<'_> {
    /// Writes a table; returns its guest-physical address.
    fn add(&mut self, table: &dyn Aml) -> Result<u64, NotRam> {
        let (at, bytes) = (self.next.next_multiple_of(16), bytes(table));
        self.ram.write(at, &bytes)?;
        self.next = at + bytes.len() as u64;
        Ok(at)
    }
}

#[derive(Default)]
struct Sink(Vec<u8>);

impl AmlSink for Sink {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Sink::default();
    table.to_aml_bytes(&mut sink);
    sink.0
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |number: u16| {
        let size = AccessSize::ByteAccess;
        GAS::new(AddressSpace::SystemIo, 8, 0, size, number.into())
    };
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(port::KEYBOARD);
    fadt.reset_value = port::KEYBOARD_RESET;
    fadt.sleep_control_reg = port(port::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(port::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let controller = LocalInterruptController::Address(LOCAL_APIC);
    let mut madt = MADT::new(OEM, TABLE, REVISION, controller);
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, IO_APIC, 0));
    madt
}

fn dsdt(platform: &Platform) -> impl Aml {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    // The sleep type of "off", which the guest writes to the sleep control register.
    let mut off = PackageBuilder::new();
    off.add_element(&port::SLEEP_OFF);
    dsdt.append_slice(&bytes(&Name::new("_S5_".into(), &off)));
    let ports = IO::new(port::SERIAL, port::SERIAL, 1, 8);
    let serial = EISAName::new("PNP0501");
    dsdt.append_slice(&device("COM1", &serial, 0, &ports, port::SERIAL_LINE));
    for number in 0..platform.virtio_devices {
        let window = Memory32Fixed::new(
            true,
            (layout::VIRTIO_START + u64::from(number) * layout::VIRTIO_WINDOW) as u32,
            layout::VIRTIO_WINDOW as u32,
        );
        let line = layout::VIRTIO_LINE + u32::from(number);
        let name = format!("V{number:03}");
        dsdt.append_slice(&device(&name, &"LNRO0005", number, &window, line));
    }
    dsdt
}

/// A device of the system bus with registers and an edge-triggered interrupt line.
fn device(name: &str, id: &dyn Aml, number: u8, registers: &dyn Aml, line: u32) -> Vec<u8> {
    let line = Interrupt::new(true, true, false, false, line);
    let resources = ResourceTemplate::new(vec![registers, &line]);
    let id = Name::new("_HID".into(), id);
    let number = Name::new("_UID".into(), &number);
    // What it does with memory, processors see.
    let coherent = Name::new("_CCA".into(), &1u8);
    let resources = Name::new("_CRS".into(), &resources);
    let device = Device::new(Path::new(name), vec![&id, &number, &coherent, &resources]);
    bytes(&Scope::new("_SB_".into(), vec![&device]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ram: &GuestRam, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        ram.read(at, &mut bytes).unwrap();
        bytes
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn table(ram: &GuestRam, at: u64) -> Vec<u8> {
        let header = read(ram, at, 8);
        let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        let table = read(ram, at, len);
        assert_eq!(sum(&table), 0, "the table at {at:#x} adds up");
        table
    }

    #[test]
    fn a_kernel_finds_every_table_from_the_pointer() {
        let ram = GuestRam::new(2 << 20).unwrap();
        let platform = Platform {
            cpus: 254,
            virtio_devices: layout::VIRTIO_DEVICES as u8,
        };
        write(&ram, &platform).unwrap();
        let rsdp = read(&ram, layout::RSDP, Rsdp::len());
        assert!(rsdp.starts_with(b"RSD PTR "));
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let xsdt = table(&ram, u64_at(&rsdp, 24));
        assert!(xsdt.starts_with(b"XSDT"));
        let fadt = table(&ram, u64_at(&xsdt, 36));
        assert!(fadt.starts_with(b"FACP"));
        let madt = table(&ram, u64_at(&xsdt, 44));
        assert!(madt.starts_with(b"APIC"));
        assert_eq!(madt.len(), 44 + 254 * 8 + 12);
        let dsdt = table(&ram, u64_at(&fadt, 140));
        assert!(dsdt.starts_with(b"DSDT"));
        let found = |what: &[u8]| {
            dsdt.windows(what.len())
                .filter(|bytes| *bytes == what)
                .count()
        };
        assert_eq!(found(b"LNRO0005"), layout::VIRTIO_DEVICES);
        assert_eq!(found(b"_S5_"), 1);
        // All of it lies below the MP table, where firmware would be.
        let end = u64_at(&rsdp, 24) + xsdt.len() as u64;
        assert!(end <= layout::MP_TABLE, "{end:#x}");
    }
}
