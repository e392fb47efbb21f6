//! The registers with which a vCPU enters its guest.

use gmem_wire::layout;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::boot::{Entry, Protocol};

/// CR0: paging, write protection in kernel mode, native floating point errors, protected mode.
const CR0_LONG: u64 = 0x8005_0033;
/// CR4: physical address extension, SSE with its exceptions.
const CR4_LONG: u64 = 0x620;
/// EFER: long mode enabled and active, no-execute.
const EFER_LONG: u64 = 0xd00;
/// CR0 of protected mode without paging.
const CR0_PROTECTED: u64 = 0x11;
/// RFLAGS with interrupts off; bit 1 is always set.
const RFLAGS: u64 = 2;

/// General registers of vCPU `index` at `entry`.
pub(super) fn general(entry: &Entry, index: usize) -> kvm_regs {
    let regs = kvm_regs {
        rip: entry.address,
        rflags: RFLAGS,
        ..Default::default()
    };
    match entry.protocol {
        Protocol::Bundled => kvm_regs {
            rdi: index as u64,
            rsi: layout::START_INFO,
            ..regs
        },
        Protocol::Linux64 => kvm_regs {
            rsi: layout::BOOT_PARAMS,
            ..regs
        },
        Protocol::Pvh => kvm_regs {
            rbx: layout::START_INFO,
            ..regs
        },
    }
}

/// Segment and control registers of a vCPU at its entry; what the entry leaves open stays as in `sregs`.
pub(super) fn system(protocol: Protocol, mut sregs: kvm_sregs) -> kvm_sregs {
    let long = protocol != Protocol::Pvh;
    let (code_selector, data_selector) = match protocol {
        Protocol::Bundled | Protocol::Pvh => (0x08, 0x10),
        // The boot protocol's __BOOT_CS and __BOOT_DS.
        Protocol::Linux64 => (0x10, 0x18),
    };
    sregs.cs = segment(code_selector, 0xb);
    sregs.cs.l = long.into();
    sregs.cs.db = (!long).into();
    let data = segment(data_selector, 0x3);
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.ldt = kvm_segment {
        unusable: 1,
        ..Default::default()
    };
    // The processor insists on a busy task state segment.
    sregs.tr = kvm_segment {
        present: 1,
        type_: 0xb,
        limit: 0x67,
        ..Default::default()
    };
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.gdt.base = 0;
    sregs.gdt.limit = 0;
    if protocol == Protocol::Linux64 {
        sregs.gdt.base = crate::boot::LINUX_GDT;
        sregs.gdt.limit = crate::boot::LINUX_GDT_LIMIT;
    }
    if long {
        sregs.cr0 = CR0_LONG;
        sregs.cr3 = layout::PML4;
        sregs.cr4 = CR4_LONG;
        sregs.efer = EFER_LONG;
    } else {
        sregs.cr0 = CR0_PROTECTED;
        sregs.cr3 = 0;
        sregs.cr4 = 0;
        sregs.efer = 0;
    }
    sregs
}

/// A flat segment of ring 0 over 4 GiB; `kind` is the descriptor's type field.
fn segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}
