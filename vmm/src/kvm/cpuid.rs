//! What a vCPU's CPUID says about itself: its APIC id and its place among the others.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// `supported` for vCPU `index` of `count`: one package, `count` cores, one thread each; the APIC id is the
/// index.
pub(super) fn for_vcpu(supported: &CpuId, index: usize, count: usize) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        place(entry, index as u32, count as u32);
    }
    cpuid
}

fn place(entry: &mut kvm_cpuid_entry2, id: u32, count: u32) {
    match entry.function {
        // EBX: initial APIC id in the top byte, logical processors of the package below it.
        1 => entry.ebx = entry.ebx & 0xffff | (count & 0xff) << 16 | id << 24,
        // Extended topology: EAX bits to shift the APIC id by for the next level, EBX processors at this
        // level, ECX level type and number, EDX the APIC id.
        0xb | 0x1f => {
            let (shift, processors, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (count.next_power_of_two().trailing_zeros(), count, 2),
                _ => (0, 0, 0),
            };
            entry.eax = shift;
            entry.ebx = processors;
            entry.ecx = kind << 8 | entry.index;
            entry.edx = id;
        }
        // AMD: EAX extended APIC id, EBX core id with one thread a core, ECX node 0.
        0x8000_001e => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ebx: 0xffff_ffff,
            ..Default::default()
        }
    }

    #[test]
    fn each_vcpu_finds_its_own_apic_id_in_every_leaf() {
        let supported = CpuId::from_entries(&[
            entry(1, 0),
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0x8000_001e, 0),
        ])
        .unwrap();
        for id in 0..3 {
            let cpuid = for_vcpu(&supported, id as usize, 3);
            let [one, thread, core, amd] = cpuid.as_slice() else {
                panic!("four leaves went in");
            };
            assert_eq!(one.ebx, id << 24 | 3 << 16 | 0xffff);
            assert_eq!((thread.edx, thread.eax, thread.ebx), (id, 0, 1));
            assert_eq!((core.edx, core.eax, core.ebx), (id, 2, 3));
            assert_eq!(amd.eax, id);
        }
    }
}
