//! A KVM virtual machine with its memory and interrupt controllers, before its vCPUs exist.

use std::sync::Arc;

use kvm_bindings::{
    KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::host::Host;
use super::{KvmError, failed};
use crate::memory::ram::GuestRam;

/// Where Intel's KVM keeps a page for identity-mapped real mode: in the hole for devices, where no device is.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
/// Three pages after it, for a task state segment.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A virtual machine whose memory slots are backed by a [`GuestRam`].
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    // Keeps the memory mapped as long as KVM has it in its slots.
    ram: Arc<GuestRam>,
    emulation_failures_exit: bool,
}

impl Vm {
    /// Creates the machine and gives it all of `ram`, with what may be plugged in: slot n for region n.
    pub fn new(host: &Host, ram: Arc<GuestRam>) -> Result<Self, KvmError> {
        let fd = host.kvm().create_vm().map_err(failed("KVM_CREATE_VM"))?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(failed("KVM_SET_IDENTITY_MAP_ADDR"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        host.prepare(&fd)?;
        let exit_on_failure = kvm_enable_cap {
            cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE,
            args: [1, 0, 0, 0],
            ..Default::default()
        };
        // Older kernels lack it: they queue #UD before such an exit, which the run loop then takes back.
        let emulation_failures_exit = fd.enable_cap(&exit_on_failure).is_ok();
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        for (slot, region) in ram.mapped().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start,
                memory_size: region.size,
                userspace_addr: ram.base() as u64 + region.start,
            };
            // SAFETY: the addresses are a region of `ram`, which this value keeps alive; regions do not
            // overlap.
            unsafe { fd.set_user_memory_region(region) }
                .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(Self {
            fd,
            ram,
            emulation_failures_exit,
        })
    }

    /// Adds the timer of a PC (i8254), which kernels that know no better calibrate by. Before vCPUs exist.
    pub fn add_timer(&self) -> Result<(), KvmError> {
        let speaker = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        self.fd
            .create_pit2(speaker)
            .map_err(failed("KVM_CREATE_PIT2"))
    }

    /// Lets `event` raise interrupt line `line` of the I/O APIC.
    pub fn connect_line(&self, event: &EventFd, line: u32) -> Result<(), KvmError> {
        self.fd
            .register_irqfd(event, line)
            .map_err(failed("KVM_IRQFD"))
    }

    /// Turns the guest's 32-bit writes of `value` to guest-physical address `gpa` into signals of `event`.
    pub fn connect_doorbell(&self, event: &EventFd, gpa: u64, value: u32) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(gpa), value)
            .map_err(failed("KVM_IOEVENTFD"))
    }

    /// The machine's descriptor.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Its memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// Whether an instruction that KVM cannot emulate exits without a queued #UD.
    pub fn emulation_failures_exit(&self) -> bool {
        self.emulation_failures_exit
    }
}
