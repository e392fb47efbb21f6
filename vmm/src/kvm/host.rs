//! Everything that is peculiar to the host's KVM: what it can do, and where hosts differ.
//!
//! Two kinds of host are served. With VMX or SVM the guest runs on second-level page tables. Without
//! (a KVM that keeps shadow page tables in software, as in nested clouds) privileged guest code is emulated
//! and KVM's asynchronous page faults cost 20 us and more on every fault that user space serves.

use std::fs;
use std::io;
use std::path::Path;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_CAP_X86_DISABLE_EXITS, KVM_MAX_CPUID_ENTRIES,
    KVM_X86_DISABLE_EXITS_HLT, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::{KvmError, failed, pace, software};

/// CPUID leaf with KVM's paravirtual features.
const KVM_FEATURES_LEAF: u32 = 0x4000_0001;
/// KVM_FEATURE_ASYNC_PF, _ASYNC_PF_VMEXIT and _ASYNC_PF_INT in that leaf's EAX.
const ASYNC_PAGE_FAULT_BITS: u32 = 1 << 4 | 1 << 10 | 1 << 14;

/// What the host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No such device.
    #[error("this host has no /dev/kvm; load the kvm modules, or enable (nested) virtualization")]
    NoKvm,
    /// The device cannot be opened.
    #[error("/dev/kvm cannot be opened: {0}; run as a user of the group kvm")]
    Open(io::Error),
    /// A KVM from another world.
    #[error(
        "/dev/kvm speaks version {found} of the KVM API, expected {KVM_API_VERSION}; use a Linux host"
    )]
    ApiVersion {
        /// What KVM_GET_API_VERSION said.
        found: i32,
    },
    /// A capability is missing.
    #[error("this host's KVM lacks {0}; use a newer Linux kernel")]
    Lacks(&'static str),
    /// A call failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// How the host's processor runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Virtualization {
    /// Intel VMX, second-level translation by EPT.
    Vmx,
    /// AMD SVM, second-level translation by NPT.
    Svm,
    /// Neither: KVM emulates privileged code and shadows page tables.
    Software,
}

impl Virtualization {
    /// Looks at the processor's flags, and at which module drives KVM.
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        Self::from_facts(&cpuinfo, module)
    }

    fn from_facts(cpuinfo: &str, module_loaded: impl Fn(&str) -> bool) -> Self {
        // A processor may have VMX and yet be driven by the software module.
        if module_loaded("kvm_pvm") {
            return Self::Software;
        }
        let flags = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .unwrap_or_default();
        let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
        if has("vmx") || module_loaded("kvm_intel") {
            Self::Vmx
        } else if has("svm") || module_loaded("kvm_amd") {
            Self::Svm
        } else {
            Self::Software
        }
    }
}

/// An open /dev/kvm that can do what a microVM needs.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    virtualization: Virtualization,
}

impl Host {
    /// Opens /dev/kvm and checks its version and capabilities.
    pub fn open() -> Result<Self, HostError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => HostError::NoKvm,
            errno => HostError::Open(io::Error::from_raw_os_error(errno)),
        })?;
        let found = kvm.get_api_version();
        if found != KVM_API_VERSION as i32 {
            return Err(HostError::ApiVersion { found });
        }
        for (capability, name) in [
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(HostError::Lacks(name));
            }
        }
        Ok(Self {
            kvm,
            virtualization: Virtualization::detect(),
        })
    }

    /// The device.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// How the processor runs guests.
    pub fn virtualization(&self) -> Virtualization {
        self.virtualization
    }

    /// The most vCPUs that one microVM can have here.
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Settings of a fresh microVM that depend on the host. Before its first vCPU is created.
    ///
    /// On a software KVM, asynchronous page faults are turned off by letting the guest keep HLT to itself:
    /// KVM then has no way to put a vCPU aside while its page is fetched. With VMX or SVM the same setting
    /// would keep a physical core in HLT, so there only the guest's part is hidden, see [`Self::cpuid`].
    pub fn prepare(&self, vm: &VmFd) -> Result<(), KvmError> {
        if self.virtualization != Virtualization::Software {
            return Ok(());
        }
        pace::enable(vm);
        let offered = vm.check_extension_raw(KVM_CAP_X86_DISABLE_EXITS.into());
        if offered & KVM_X86_DISABLE_EXITS_HLT as i32 == 0 {
            // Slower faults, nothing worse.
            return Ok(());
        }
        let capability = kvm_enable_cap {
            cap: KVM_CAP_X86_DISABLE_EXITS,
            args: [KVM_X86_DISABLE_EXITS_HLT.into(), 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&capability)
            .map_err(failed("KVM_ENABLE_CAP(KVM_CAP_X86_DISABLE_EXITS)"))
    }

    /// What the guests' CPUID may say on this host, without asynchronous page faults, and on a software KVM
    /// without what kernel code cannot execute there.
    pub fn cpuid(&self) -> Result<CpuId, KvmError> {
        let mut cpuid = self
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        for entry in cpuid.as_mut_slice() {
            if entry.function == KVM_FEATURES_LEAF {
                entry.eax &= !ASYNC_PAGE_FAULT_BITS;
            }
        }
        if self.virtualization == Virtualization::Software {
            software::restrict(&mut cpuid);
        }
        Ok(cpuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_modules_tell_the_kind_of_host() {
        let kind = |cpuinfo: &str, loaded: &str| {
            Virtualization::from_facts(cpuinfo, |module| module == loaded)
        };
        assert_eq!(kind("flags\t\t: fpu vmx sse", ""), Virtualization::Vmx);
        assert_eq!(kind("flags\t\t: fpu svm sse", ""), Virtualization::Svm);
        assert_eq!(kind("flags\t\t: fpu svmx", ""), Virtualization::Software);
        assert_eq!(kind("", "kvm_amd"), Virtualization::Svm);
        assert_eq!(
            kind("flags : vmx", "kvm_pvm"),
            Virtualization::Software,
            "the module that drives /dev/kvm decides"
        );
    }

    #[test]
    fn the_guest_is_offered_no_asynchronous_page_faults() {
        let host = Host::open().expect("this test needs a working /dev/kvm");
        let cpuid = host.cpuid().unwrap();
        let leaf = cpuid
            .as_slice()
            .iter()
            .find(|entry| entry.function == KVM_FEATURES_LEAF)
            .expect("KVM offers its feature leaf");
        assert_eq!(leaf.eax & ASYNC_PAGE_FAULT_BITS, 0);
    }
}
