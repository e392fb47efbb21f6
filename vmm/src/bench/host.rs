//! Where a measurement was taken: what one has to know to compare it with another.

use std::fs;

use serde::Serialize;

use crate::check::Host;
use crate::kvm::affinity;
use crate::kvm::host::Virtualization;

/// The facts about a host that move figures.
#[derive(Clone, Debug, Serialize)]
pub struct HostFacts {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name, as the kernel has it.
    pub processor: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// How KVM runs guests: `vmx`, `svm`, or `software` (shadow page tables, no help by the processor).
    pub virtualization: &'static str,
    /// Setting of transparent huge pages: `always`, `madvise` or `never`.
    pub huge_pages: String,
    /// Load average of the last minute, at the end of the measurement.
    pub load: f64,
}

impl HostFacts {
    /// Of the host that runs this process. What cannot be read is empty or zero.
    pub fn this() -> Self {
        let host = Host::this();
        let cpuinfo = fs::read_to_string(&host.cpuinfo).unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(String::new, |(_, name)| name.trim().to_owned());
        let huge_pages = fs::read_to_string(host.huge_pages.join("enabled")).unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor,
            cpus: affinity::allowed_cpus().map_or(0, |cpus| cpus.len()),
            virtualization: match Virtualization::detect() {
                Virtualization::Vmx => "vmx",
                Virtualization::Svm => "svm",
                Virtualization::Software => "software",
            },
            huge_pages: in_brackets(&huge_pages).to_owned(),
            load: load
                .split_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
            kernel: host.release,
        }
    }
}

/// The chosen word of a setting such as `always [madvise] never`.
pub(super) fn in_brackets(text: &str) -> &str {
    let inside = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_setting_is_found() {
        assert_eq!(in_brackets("always [madvise] never\n"), "madvise");
        assert_eq!(in_brackets(""), "");
    }

    #[test]
    fn this_host_has_a_kernel_and_cpus() {
        let facts = HostFacts::this();
        assert!(!facts.kernel.is_empty() && facts.cpus > 0);
    }
}
