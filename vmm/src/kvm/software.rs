//! Hosts whose KVM has neither VMX nor SVM: what their guests are told, so that they can run.
//!
//! Such a KVM emulates guest code at CPL0 and runs code at CPL3 natively. User code of a guest therefore sees the
//! processor as it is, with all of its instructions and all of its extended state, whatever CPUID says; kernel
//! code executes CPUID in the emulator, and can use no instruction that neither the emulator nor
//! [`crate::fallback`] knows.
//!
//! So CPUID offers the kernel what it must know to keep its user code's state (XSAVE, AVX and AVX-512, which it
//! saves and restores) and hides what it would only use itself. But `kvm_pvm` adds the processor's own bits to
//! leaves 1 (ECX, EDX), 7 and 0xD.1 of what `KVM_SET_CPUID2` sets: there a kernel has to be told by its command
//! line, see [`linux_command_line`].
//!
//! Everything peculiar to such hosts hangs on [`Virtualization::Software`]; with VMX or SVM nothing here applies.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use super::host::Virtualization;

/// Leaf 1, ECX: x2APIC, TSC deadline timer, running under a hypervisor.
const KEPT_1_ECX: u32 = 1 << 21 | 1 << 24 | 1 << 31;
/// Leaf 1, ECX: XSAVE.
const XSAVE: u32 = 1 << 26;
/// Leaf 1, ECX: AVX.
const AVX: u32 = 1 << 28;
/// Leaf 1, EDX: machine checks (MCE, MCA) and MTRRs, of which the emulator has empty shells.
const HIDDEN_1_EDX: u32 = 1 << 7 | 1 << 12 | 1 << 14;
/// Leaf 7, EBX: TSC_ADJUST.
const KEPT_7_EBX: u32 = 1 << 1;
/// Leaf 7, EBX: AVX-512 Foundation.
const AVX512F: u32 = 1 << 16;
/// Leaf 0x8000_0001, ECX: LAHF and SAHF in 64-bit code.
const KEPT_8000_0001_ECX: u32 = 1 << 0;
/// Leaf 0x8000_0001, EDX: `syscall`, no-execute, pages of 1 GiB, `rdtscp`, long mode.
const KEPT_8000_0001_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29;
/// Leaf 0xD, subleaf 1, EAX: XSAVEOPT, XSAVEC, XGETBV of what is in use.
const KEPT_XSAVE_VARIANTS: u32 = 0b111;
/// XCR0: AVX.
const XCR0_AVX: u32 = 1 << 2;
/// XCR0: the three components of AVX-512.
const XCR0_AVX512: u32 = 0b111 << 5;
/// "GenuineIntel", in EBX, EDX, ECX.
const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
/// Family 6, model 0x3a, stepping 9: old enough that kernels look for no newer machinery in its registers.
const SIGNATURE: u32 = 0x0003_06a9;

/// Words that a Linux guest needs on its command line on such a host; none with VMX or SVM.
///
/// What KVM lets CPUID hide is hidden there (CX16 for one, of which the kernel makes much use). What remains:
///
/// - `clearcpuid=`: features that the kernel would use itself. `popcnt`, `smap` and `fsgsbase` would cost an exit at
///   every count of bits, access to user memory and switch of tasks. `erms` and `fsrm` have it copy by bytes, one round of the
///   emulator each, instead of by words. `umip` and `pku` are not kept by KVM for code that runs natively.
///   The others are those of checksums and ciphers, whose SSE nobody emulates. AVX and AVX-512 stay: without
///   them the kernel would not save their state.
/// - `tsc=reliable`: at 1 MIPS two clocks cannot be read closely enough for the kernel's check of the time stamp
///   counter against kvm-clock.
/// - `mitigations=off`: the kernel believes that this processor leaks, and would run `verw` (an exit) at each return
///   to user code and two sets of page tables, while its own code never runs on the processor at all.
/// - `rodata=off`: protecting the kernel's own memory splits and walks page tables, a tenth of a small guest's boot.
/// - `highres=off`: a tick that takes longer than the time to the next one (4 ms in distributions' kernels) would be
///   done three times before its interrupt returns. Without high-resolution timers it is done once, for less; see also
///   [`super::pace`].
/// - `watchdog_thresh=60`: half a minute in the kernel is no lockup here. (Not `nowatchdog`: a kernel that does not
///   know a word without a value hands it to init.)
///
/// Not needed: a delay loop's calibration (`lpj=`), where the kernel has kvm-clock.
pub fn linux_command_line(virtualization: Virtualization) -> &'static str {
    match virtualization {
        Virtualization::Vmx | Virtualization::Svm => "",
        Virtualization::Software => {
            "clearcpuid=popcnt,smap,fsgsbase,erms,fsrm,umip,pku,ssse3,sse4_1,sse4_2,aes,pclmulqdq,sha_ni \
             tsc=reliable mitigations=off rodata=off highres=off watchdog_thresh=60"
        }
    }
}

/// Makes `cpuid`, what KVM supports, what a kernel in its emulator can live with.
pub(super) fn restrict(cpuid: &mut CpuId) {
    let entries = cpuid.as_mut_slice();
    let state = entries
        .iter()
        .find(|entry| (entry.function, entry.index) == (0xd, 0))
        .map_or(0, |entry| entry.eax);
    for entry in entries {
        restrict_entry(entry, state);
    }
}

/// `state`: the components of extended state that KVM can keep, as in XCR0.
fn restrict_entry(entry: &mut kvm_cpuid_entry2, state: u32) {
    let if_kept = |components: u32, feature: u32| match state & components == components {
        true => feature,
        false => 0,
    };
    match (entry.function, entry.index) {
        // Linux expects AMD's processors to keep x87 pointers, and undoes that by x87 arithmetic.
        (0, _) => [entry.ebx, entry.edx, entry.ecx] = INTEL,
        (1, _) => {
            entry.eax = SIGNATURE;
            let xsave = if_kept(0b11, XSAVE) | if_kept(XCR0_AVX, AVX);
            entry.ecx = entry.ecx & KEPT_1_ECX | xsave;
            entry.edx &= !HIDDEN_1_EDX;
        }
        (7, 0) => {
            entry.eax = 0;
            entry.ebx = entry.ebx & KEPT_7_EBX | if_kept(XCR0_AVX512, AVX512F);
            entry.ecx = 0;
            entry.edx = 0;
        }
        (7, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // Supervisor components do not come out of KVM.
        (0xd, 1) => {
            entry.eax &= KEPT_XSAVE_VARIANTS;
            (entry.ecx, entry.edx) = (0, 0);
        }
        (0x8000_0001, _) => {
            entry.ecx &= KEPT_8000_0001_ECX;
            entry.edx &= KEPT_8000_0001_EDX;
        }
        (0x8000_0008, _) => entry.ebx = 0,
        (0x8000_0021, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::host::Host;

    fn full(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    /// What is left of the entry, as EAX, EBX, ECX, EDX.
    fn left(function: u32, index: u32, state: u32) -> [u32; 4] {
        let mut cpuid = CpuId::from_entries(&[
            kvm_cpuid_entry2 {
                eax: state,
                ..full(0xd, 0)
            },
            full(function, index),
        ])
        .unwrap();
        restrict(&mut cpuid);
        let entry = cpuid.as_slice()[1];
        [entry.eax, entry.ebx, entry.ecx, entry.edx]
    }

    #[test]
    fn the_kernel_is_offered_the_state_that_kvm_keeps_and_no_more() {
        let features = |state| {
            let (one, seven) = (left(1, 0, state)[2], left(7, 0, state)[1]);
            (one & XSAVE != 0, one & AVX != 0, seven & AVX512F != 0)
        };
        assert_eq!(features(0xe7), (true, true, true));
        assert_eq!(features(0x07), (true, true, false));
        assert_eq!(features(0x67), (true, true, false));
        assert_eq!(features(0x03), (true, false, false));
        assert_eq!(features(0), (false, false, false));
    }

    #[test]
    fn what_only_the_kernel_would_use_is_hidden() {
        let [signature, _, ecx, edx] = left(1, 0, 0xe7);
        assert_eq!(signature, SIGNATURE);
        assert_eq!(ecx & (1 << 13 | 1 << 23), 0, "cmpxchg16b, popcnt");
        assert_eq!(edx & (1 << 7 | 1 << 12 | 1 << 14), 0, "MCE, MTRR, MCA");
        assert_eq!(left(7, 0, 0xe7), [0, 1 << 1 | 1 << 16, 0, 0]);
        assert_eq!(left(0xd, 1, 0xe7)[0] & 1 << 3, 0, "XSAVES");
        let [_, _, ecx, edx] = left(0x8000_0001, 0, 0xe7);
        assert_eq!(ecx & 1 << 5, 0, "lzcnt, which the emulator takes for bsr");
        assert_ne!(edx & 1 << 29, 0, "long mode");
    }

    #[test]
    fn only_software_needs_words_and_a_restricted_cpuid() {
        assert_eq!(linux_command_line(Virtualization::Vmx), "");
        assert_eq!(linux_command_line(Virtualization::Svm), "");
        let words = linux_command_line(Virtualization::Software);
        assert!(!words.contains("  "), "{words}");
        let mut found = words.split(' ').map(|word| word.split('=').next().unwrap());
        assert!(found.any(|name| name == "clearcpuid"), "{words}");

        let host = Host::open().expect("this test needs a working /dev/kvm");
        let cpuid = host.cpuid().unwrap();
        let leaf_1 = cpuid.as_slice().iter().find(|entry| entry.function == 1);
        let signature = leaf_1.expect("KVM offers leaf 1").eax;
        let restricted = host.virtualization() == Virtualization::Software;
        assert_eq!(signature == SIGNATURE, restricted);
    }
}
