//! CPUs: how they run a guest, and which of them may be used.

use std::io;
use std::mem::MaybeUninit;

use super::{Host, Requirement};

/// How KVM runs the guest's code.
pub(super) fn virtualization(host: &Host) -> Requirement {
    let (name, purpose) = (
        "virtualization",
        "runs the guest's privileged code on the CPU; without it KVM emulates that code, about a million \
         instructions a second, and gmem finishes what KVM cannot",
    );
    // A module that is built in shows itself also on CPUs without the feature, hence both.
    if host.has_module("kvm_intel") && host.cpu_has("vmx") {
        return Requirement::found(name, purpose, "VMX (Intel)");
    }
    if host.has_module("kvm_amd") && host.cpu_has("svm") {
        return Requirement::found(name, purpose, "SVM (AMD)");
    }
    let found = match host.has_module("kvm_pvm") {
        true => "neither VMX nor SVM (kvm_pvm)",
        false => "neither VMX nor SVM",
    };
    Requirement::optional(
        name,
        purpose,
        found,
        "for kernels other than the bundled guest use a host with VT-x or AMD-V, or with nested \
         virtualization, and load kvm_intel or kvm_amd",
    )
}

/// The CPUs that this process may use.
pub(super) fn allowed() -> Requirement {
    let (name, purpose) = (
        "cpus",
        "vCPUs and fault handlers, which are pinned to CPUs this process may use",
    );
    match affinity() {
        Ok(cpus) => {
            let list = ranges(&cpus);
            Requirement::found(name, purpose, format!("{} ({list})", cpus.len()))
        }
        Err(error) => Requirement::optional(
            name,
            purpose,
            format!("unknown: {error}"),
            "allow sched_getaffinity in the container's seccomp profile",
        ),
    }
}

fn affinity() -> io::Result<Vec<usize>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the call writes at most as many bytes as the set has; zeros are a valid set.
    let set = unsafe {
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        set.assume_init()
    };
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every number is below CPU_SETSIZE.
    Ok(all
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Ascending numbers as a list such as `0-3,6`.
pub(super) fn ranges(numbers: &[usize]) -> String {
    let parts: Vec<String> = numbers
        .chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run[0].to_string(),
        })
        .collect();
    parts.join(",")
}
