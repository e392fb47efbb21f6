//! From configuration to a microVM that has not run yet.

use std::io::Write;
use std::sync::Arc;

use gmem_devices::legacy::{ConsoleWires, Ports};
use gmem_wire::port;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::output::Output;
use super::{BuildError, Config, Payload, Running, Setting};
use crate::boot::elf;
use crate::boot::{self, Entry, Platform, Protocol};
use crate::devices::{DeviceError, Devices};
use crate::footprint;
use crate::kvm::control::VcpuThreads;
use crate::kvm::host::Host;
use crate::kvm::run_loop::Shared;
use crate::kvm::software::linux_command_line;
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::kvm::{KvmError, affinity};
use crate::memory::managed::ManagedMemory;
use crate::memory::ram::GuestRam;

/// A microVM that has not run yet.
pub struct Machine {
    vm: Vm,
    vcpus: Vec<Vcpu>,
    cpus: Vec<usize>,
    shared: Arc<Shared>,
    memory: Arc<ManagedMemory>,
    console_drained: Option<EventFd>,
}

impl Machine {
    /// Builds the microVM. Its console goes to `output`.
    pub fn build(config: &Config, output: Box<dyn Write + Send>) -> Result<Self, BuildError> {
        Self::build_in(config, output, &Setting::default())
    }

    /// As [`Machine::build`], in a setting of the caller's.
    pub fn build_in(
        config: &Config,
        output: Box<dyn Write + Send>,
        setting: &Setting,
    ) -> Result<Self, BuildError> {
        let output = Output::new(output);
        let ram = Arc::new(GuestRam::with_pluggable(
            config.memory,
            config.devices.pluggable(config.memory),
        )?);
        let memory = match &setting.server {
            Some(server) => ManagedMemory::served_by(Arc::clone(&ram), Arc::clone(server)),
            None => ManagedMemory::new(Arc::clone(&ram), config.plan.clone()),
        };
        let memory = Arc::new(memory);
        memory.prepare()?;
        let kernel = match &config.payload {
            Payload::Bundled { image, .. } => elf::load_bundled(&ram, image)?,
            Payload::Kernel { path, .. } => elf::load_file(&ram, path)?,
        };
        let host = Host::open()?;
        if config.cpus > host.max_vcpus() {
            return Err(BuildError::TooManyVcpus {
                found: config.cpus,
                limit: host.max_vcpus(),
            });
        }
        let vm = Vm::new(&host, Arc::clone(&ram))?;
        let open = matches!(config.payload, Payload::Kernel { .. });
        if open {
            vm.add_timer()?;
        }
        let supported = host.cpuid()?;
        let vcpus = (0..config.cpus)
            .map(|index| Vcpu::new(&vm, index, config.cpus, &supported))
            .collect::<Result<Vec<_>, _>>()?;
        let devices = Devices::new(&vm, &memory, &config.devices, Box::new(output.clone()))?;
        write_boot_information(&ram, config, &kernel, &devices, &host, &vcpus)?;
        enter(&vcpus, &kernel.entry)?;
        let mut wires = ConsoleWires::default();
        let mut console_drained = None;
        if open {
            let [line, drained] = [eventfd()?, eventfd()?];
            vm.connect_line(&line, port::SERIAL_LINE)?;
            console_drained = Some(drained.try_clone().map_err(DeviceError::Events)?);
            wires.line = Some(line);
            wires.drained = Some(drained);
        }
        let cpus = match &setting.cpus {
            Some(cpus) => cpus.iter().copied().cycle().take(config.cpus).collect(),
            None => affinity::assign(config.cpus).map_err(BuildError::Threads)?,
        };
        // Last: from here on the memory is served, and what is loaded has been found present.
        if config.devices.accelerators.is_empty() {
            memory.arm_if_needed(&cpus)?;
        } else {
            memory.arm_for_accelerators(&cpus)?;
        }
        if let Some(engine) = memory.engine() {
            devices.attach(engine)?;
        }
        Ok(Self {
            cpus,
            memory,
            vm,
            vcpus,
            console_drained,
            shared: Arc::new(Shared {
                ram,
                ports: Ports::new(Box::new(output), wires),
                devices: Arc::new(devices),
                open_hole: open,
            }),
        })
    }

    /// The guest's memory.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.shared.ram
    }

    /// The guest's memory and what holds it.
    pub fn memory(&self) -> &Arc<ManagedMemory> {
        &self.memory
    }

    /// The host CPU that each vCPU's thread will be pinned to.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// Starts the vCPU threads.
    pub fn start(self) -> Result<Running, BuildError> {
        let threads =
            VcpuThreads::start(self.vcpus, self.cpus, &self.shared).map_err(BuildError::Threads)?;
        footprint::shrink();
        Ok(Running {
            threads,
            shared: self.shared,
            _vm: self.vm,
            memory: self.memory,
            console_drained: self.console_drained,
        })
    }
}

fn write_boot_information(
    ram: &GuestRam,
    config: &Config,
    kernel: &elf::Kernel,
    devices: &Devices,
    host: &Host,
    vcpus: &[Vcpu],
) -> Result<(), BuildError> {
    let platform = Platform {
        // KVM's limit is far below.
        cpus: u8::try_from(config.cpus).unwrap_or(u8::MAX),
        virtio_devices: devices.iter().count() as u8,
    };
    match &config.payload {
        Payload::Bundled {
            workload, extra, ..
        } => {
            let tsc_khz = match vcpus.first() {
                Some(vcpu) => vcpu.tsc_khz()?,
                None => 0,
            };
            let mut text = format!(
                "gmem.cpus={} gmem.tsc_khz={tsc_khz} gmem.devices={} ",
                config.cpus, platform.virtio_devices
            );
            if !extra.is_empty() {
                text.push_str(extra);
                text.push(' ');
            }
            text.push_str("-- ");
            text.push_str(workload);
            boot::write(ram, kernel, &platform, &text, None)?;
        }
        Payload::Kernel {
            command_line,
            initrd,
            ..
        } => {
            // The user's words last: they have the last say.
            let host = linux_command_line(host.virtualization());
            let words = [host, &devices.command_line(), command_line];
            let text = words.map(str::trim).join(" ");
            let text = text.trim();
            boot::write(ram, kernel, &platform, text, initrd.as_ref())?;
        }
    }
    Ok(())
}

fn eventfd() -> Result<EventFd, DeviceError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(DeviceError::Events)
}

/// Puts the vCPUs at the kernel's entry: all of them for the bundled guest, otherwise the boot vCPU, while the
/// others wait until the kernel starts them.
fn enter(vcpus: &[Vcpu], entry: &Entry) -> Result<(), KvmError> {
    let entering = match entry.protocol {
        Protocol::Bundled => vcpus.len(),
        Protocol::Linux64 | Protocol::Pvh => 1,
    };
    if entry.protocol != Protocol::Bundled {
        for vcpu in vcpus {
            vcpu.initialise_fpu()?;
            vcpu.wire_local_apic()?;
        }
    }
    vcpus
        .iter()
        .take(entering)
        .try_for_each(|vcpu| vcpu.enter(entry))
}
