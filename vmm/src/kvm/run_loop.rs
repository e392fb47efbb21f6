//! The loop around KVM_RUN: exits become device accesses, fallbacks, or the vCPU's end.

use std::io::Write;
use std::sync::Arc;

use gmem_devices::legacy::{Action, Ports};
use gmem_wire::layout;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
};
use kvm_ioctls::VcpuExit;

use super::exits::{Access, Cause, End, GuestFailure, VcpuError};
use super::gate::{Gate, Request};
use super::kick::ImmediateExit;
use super::vcpu::Vcpu;
use crate::devices::Devices;
use crate::fallback;
use crate::memory::ram::GuestRam;

/// Most bytes of an x86 instruction.
const MAX_INSTRUCTION: usize = 15;
/// Vector of the invalid-opcode exception.
const INVALID_OPCODE: u8 = 6;

/// What the vCPUs of a microVM share.
pub struct Shared {
    /// Its memory.
    pub ram: Arc<GuestRam>,
    /// Its ports, with the console's output.
    pub ports: Ports<Box<dyn Write + Send>>,
    /// Its virtio devices.
    pub devices: Arc<Devices>,
    /// Whether addresses of the hole for devices where there is none read as ones and swallow writes, as on
    /// a PC. Otherwise such an access ends the guest.
    pub open_hole: bool,
}

impl Shared {
    /// Serves a read of device memory; false if there is nobody.
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.devices.at(address) {
            Some((device, offset)) => device.read(offset, data),
            None if self.open_hole && in_hole(address) => data.fill(0xff),
            None => return false,
        }
        true
    }

    /// Serves a write to device memory; false if there is nobody.
    fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.devices.at(address) {
            Some((device, offset)) => device.write(offset, data),
            None => return self.open_hole && in_hole(address),
        }
        true
    }
}

fn in_hole(address: u64) -> bool {
    (layout::MMIO_START..layout::MMIO_END).contains(&address)
}

/// An exit that needs the vCPU's registers, which the exit itself still borrows.
enum Exit {
    End(Cause),
    Device {
        access: Access,
        address: u64,
        len: usize,
    },
    Internal,
    WriteMsr {
        index: u32,
        value: u64,
    },
}

impl Vcpu {
    /// Runs the guest on the calling thread until the gate says stop or the vCPU ends by itself.
    pub(super) fn run(&mut self, shared: &Shared, gate: &Gate) -> End {
        // SAFETY: the value is dropped at the end of this function, `self` lives longer.
        let immediate = unsafe { ImmediateExit::new(&mut self.fd) };
        if self.index == 0 {
            gate.entering();
        }
        let cause = loop {
            // A request never parks the thread here: KVM_RUN first has to finish the access that the last exit
            // was about, or registers and memory would be seen half-way through an instruction. The same
            // holds for a kick that arrives between this line and KVM_RUN: its handler sets the flag.
            if gate.requested() {
                immediate.set();
            }
            let exit = match self.fd.run() {
                Ok(exit) => match dispatch(exit, shared) {
                    Some(exit) => exit,
                    None => continue,
                },
                // EAGAIN: a vCPU that waits for its start-up interrupt was woken.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    // Cleared before the request is read: a kick after the reading sets it again.
                    immediate.clear();
                    match gate.checkpoint(self.index) {
                        Request::Stop => break Cause::Stopped,
                        Request::Run | Request::Pause => continue,
                    }
                }
                Err(error) if matches!(error.errno(), libc::EFAULT | libc::EHWPOISON) => {
                    break Cause::Error(VcpuError::MemoryFault { address: None });
                }
                Err(error) => break Cause::Error(VcpuError::Run(error)),
            };
            let ended = match exit {
                Exit::End(cause) => Err(cause),
                Exit::Device {
                    access,
                    address,
                    len,
                } => Err(device_access(&shared.ram, access, address, len)),
                Exit::Internal => self.internal_error(shared),
                Exit::WriteMsr { index, value } => {
                    self.write_msr(index, value);
                    Ok(())
                }
            };
            if let Err(cause) = ended {
                break cause;
            }
        };
        End {
            cause,
            position: self.position(),
        }
    }

    /// KVM_EXIT_X86_WRMSR: a register that KVM was told to leave to this process.
    fn write_msr(&mut self, index: u32, value: u64) {
        let done = self.pace.write(&self.fd, index, value);
        self.fd.get_kvm_run().__bindgen_anon_1.msr.error = (!done).into();
    }

    /// KVM_EXIT_INTERNAL_ERROR: an instruction for the fallback, or the end.
    fn internal_error(&mut self, shared: &Shared) -> Result<(), Cause> {
        // SAFETY: the exit reason says that this member of the union is filled in; all of its bit patterns
        // are valid.
        let failure = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.emulation_failure };
        if failure.suberror != KVM_INTERNAL_ERROR_EMULATION {
            // SAFETY: as above; both members begin with the same two fields.
            let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
            let known = (internal.ndata as usize).min(internal.data.len());
            return Err(Cause::Guest(GuestFailure::Internal {
                suberror: internal.suberror,
                data: internal.data[..known].to_vec(),
            }));
        }
        let mut bytes = Vec::with_capacity(MAX_INSTRUCTION);
        let flag = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
        if failure.ndata >= 3 && failure.flags & flag != 0 {
            // SAFETY: the flag says that this member is filled in; all of its bit patterns are valid.
            let given = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
            let len = usize::from(given.insn_size).min(MAX_INSTRUCTION);
            bytes.extend_from_slice(&given.insn_bytes[..len]);
        }
        let registers = |error: kvm_ioctls::Error| {
            Cause::Error(VcpuError::Registers(format!(
                "the registers of vCPU {} cannot be accessed: {error}; look at `dmesg`",
                self.index
            )))
        };
        if bytes.is_empty() {
            let rip = self.fd.get_regs().map_err(registers)?.rip;
            let code = self.fd.translate_gva(rip).map_err(registers)?;
            if code.valid != 0 && !shared.ram.contains(code.physical_address, 1) {
                let address = code.physical_address;
                return Err(device_access(&shared.ram, Access::Fetch, address, 1));
            }
        }
        if !self.emulation_failures_exit {
            // KVM queued #UD before it exited.
            self.set_exception(None).map_err(registers)?;
        }
        match fallback::emulate(&mut self.fd, &*shared.ram, &bytes) {
            Ok(()) => Ok(()),
            // User code that executes what does not exist gets what the processor would give it.
            Err(_) if self.position().is_some_and(|position| position.cpl == 3) => {
                self.set_exception(Some(INVALID_OPCODE)).map_err(registers)
            }
            Err(unsupported) => Err(Cause::Guest(GuestFailure::CannotEmulate(
                unsupported.to_string(),
            ))),
        }
    }

    /// Replaces the exception that waits to be delivered.
    fn set_exception(&self, vector: Option<u8>) -> Result<(), kvm_ioctls::Error> {
        let mut events = self.fd.get_vcpu_events()?;
        events.exception.pending = 0;
        events.exception.has_error_code = 0;
        events.exception.injected = vector.is_some().into();
        events.exception.nr = vector.unwrap_or_default();
        self.fd.set_vcpu_events(&events)
    }
}

/// Serves accesses to devices. `None`: go on.
fn dispatch(exit: VcpuExit<'_>, shared: &Shared) -> Option<Exit> {
    let end = |cause| Some(Exit::End(cause));
    match exit {
        VcpuExit::IoOut(port, data) => match shared.ports.write(port, data) {
            Action::Continue => None,
            Action::Exit(verdict) => end(Cause::Exit(verdict)),
            Action::Reset => end(Cause::Reset),
        },
        VcpuExit::IoIn(port, data) => {
            shared.ports.read(port, data);
            None
        }
        VcpuExit::MmioRead(address, data) => {
            (!shared.read(address, data)).then_some(Exit::Device {
                access: Access::Read,
                address,
                len: data.len(),
            })
        }
        VcpuExit::MmioWrite(address, data) => {
            (!shared.write(address, data)).then_some(Exit::Device {
                access: Access::Write,
                address,
                len: data.len(),
            })
        }
        VcpuExit::Shutdown => end(Cause::Guest(GuestFailure::TripleFault)),
        VcpuExit::X86Wrmsr(write) => Some(Exit::WriteMsr {
            index: write.index,
            value: write.data,
        }),
        VcpuExit::InternalError => Some(Exit::Internal),
        // The interrupt controller is in the kernel, which also waits there for the end of HLT.
        VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::SetTpr => None,
        VcpuExit::FailEntry(reason, _) => end(Cause::Error(VcpuError::Entry(reason))),
        VcpuExit::MemoryFault { gpa, .. } => {
            end(Cause::Error(VcpuError::MemoryFault { address: Some(gpa) }))
        }
        other => end(Cause::Error(VcpuError::UnexpectedExit(format!(
            "{other:?}"
        )))),
    }
}

/// An access that KVM took for one to a device. There is none, and where there is memory the page is gone.
fn device_access(ram: &GuestRam, access: Access, address: u64, len: usize) -> Cause {
    if ram.contains(address, 1) {
        Cause::Error(VcpuError::MemoryLost {
            access,
            len,
            address,
        })
    } else {
        Cause::Guest(GuestFailure::OutsideMemory {
            access,
            len,
            address,
            memory: ram.size(),
        })
    }
}
