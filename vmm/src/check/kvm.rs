//! KVM: its device, its version, its capabilities.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_IRQCHIP,
    KVM_CAP_MAX_VCPUS, KVM_CAP_SYNC_MMU, KVM_CAP_USER_MEMORY, KVM_CAP_X86_DISABLE_EXITS,
};
use kvm_ioctls::Kvm;

use super::{Host, Requirement};

const DEVICE: (&str, &str) = ("kvm", "runs the guest's code");
const VERSION: (&str, &str) = ("kvm-version", "the KVM interface that gmem speaks");

/// A capability: its name, its number, and what it is for.
type Capability = (&'static str, u32, &'static str);

/// Without these nothing runs.
const REQUIRED: [Capability; 4] = [
    (
        "kvm-user-memory",
        KVM_CAP_USER_MEMORY,
        "puts memory of this process beneath the guest",
    ),
    (
        "kvm-irqchip",
        KVM_CAP_IRQCHIP,
        "interrupt controllers in the kernel",
    ),
    (
        "kvm-immediate-exit",
        KVM_CAP_IMMEDIATE_EXIT,
        "stops a vCPU without a race",
    ),
    (
        "kvm-sync-mmu",
        KVM_CAP_SYNC_MMU,
        "the guest sees at once that a page frame has moved",
    ),
];

/// These make it better.
const OPTIONAL: [Capability; 2] = [
    (
        "kvm-disable-exits",
        KVM_CAP_X86_DISABLE_EXITS,
        "keeps KVM from adding work to every page fault where it has no hardware virtualization",
    ),
    (
        "kvm-emulation-exit",
        KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        "shows gmem each instruction that KVM cannot emulate",
    ),
];

/// Everything about KVM, as far as it can be asked.
pub(super) fn all(host: &Host) -> Vec<Requirement> {
    let kvm = match open(host) {
        Ok(kvm) => kvm,
        Err(error) => {
            let (found, remedy) = cannot_open(host, &error);
            return vec![Requirement::missing(DEVICE.0, DEVICE.1, found, remedy)];
        }
    };
    let device = host.kvm.display().to_string();
    let mut all = vec![Requirement::found(DEVICE.0, DEVICE.1, device)];
    let version = version(kvm.get_api_version());
    let speaks = version.is_met();
    all.push(version);
    if speaks {
        all.extend(capabilities(|capability| {
            kvm.check_extension_raw(capability.into())
        }));
    }
    all
}

/// Opens KVM's device.
pub(super) fn open(host: &Host) -> io::Result<Kvm> {
    let path = CString::new(host.kvm.as_os_str().as_bytes())?;
    Kvm::new_with_path(path).map_err(io::Error::from)
}

/// What is wrong and what to do where the device cannot be opened.
pub(super) fn cannot_open(host: &Host, error: &io::Error) -> (String, String) {
    let device = host.kvm.display();
    let found = format!("{device}: {error}");
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            let load = match (host.cpu_has("vmx"), host.cpu_has("svm")) {
                (true, _) => "modprobe kvm_intel",
                (_, true) => "modprobe kvm_amd",
                _ => {
                    "switch on virtualization (VT-x, AMD-V) in the firmware, or nested virtualization \
                     for this virtual machine, and load kvm_intel or kvm_amd"
                }
            };
            format!("{load}; in a container: pass the device in (--device {device})")
        }
        io::ErrorKind::PermissionDenied => format!(
            "give this user read and write permission on {device}: usermod -aG kvm USER and log in \
             again, or setfacl -m u:USER:rw {device}"
        ),
        _ => format!("make {device} the device of the kvm module: modprobe kvm_intel or kvm_amd"),
    };
    (found, remedy)
}

/// The interface's version.
pub(super) fn version(found: i32) -> Requirement {
    match u32::try_from(found) {
        Ok(KVM_API_VERSION) => Requirement::found(VERSION.0, VERSION.1, found.to_string()),
        Ok(_) => Requirement::missing(
            VERSION.0,
            VERSION.1,
            format!("version {found}, not {KVM_API_VERSION}"),
            "boot a kernel whose KVM has version 12, as all have had since 2007",
        ),
        Err(_) => Requirement::missing(
            VERSION.0,
            VERSION.1,
            "the device does not answer like KVM",
            "load kvm_intel or kvm_amd, and let udev make the device",
        ),
    }
}

/// The capabilities, each asked by `ask`: what `KVM_CHECK_EXTENSION` answers.
pub(super) fn capabilities(ask: impl Fn(u32) -> i32) -> Vec<Requirement> {
    const REMEDY: &str = "boot a newer kernel, with KVM for this CPU";
    let mut all = Vec::new();
    for (name, capability, purpose) in REQUIRED {
        all.push(match ask(capability) {
            1.. => Requirement::found(name, purpose, "available"),
            _ => Requirement::missing(name, purpose, "not available", REMEDY),
        });
    }
    let (name, purpose) = ("kvm-max-vcpus", "how many vCPUs a microVM can have");
    all.push(match ask(KVM_CAP_MAX_VCPUS) {
        max @ 1.. => Requirement::found(name, purpose, max.to_string()),
        _ => Requirement::optional(name, purpose, "unknown, at least 4", REMEDY),
    });
    for (name, capability, purpose) in OPTIONAL {
        all.push(match ask(capability) {
            bits @ 1.. => Requirement::found(name, purpose, format!("available ({bits:#x})")),
            _ => Requirement::optional(name, purpose, "not available", REMEDY),
        });
    }
    all
}
