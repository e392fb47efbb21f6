//! A microVM from its configuration to its outcome.
//!
//! [`Machine::build`] makes memory, KVM's side and vCPUs, and loads the kernel. [`Machine::start`] lets the
//! vCPUs go. [`Running::wait`] tells what happens next, [`Running::finish`] stops everything and says how it
//! ended. Between build and start nobody else touches the memory: what serves its pages is put in place there.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gmem_devices::legacy::{ConsoleWires, Ports};
use gmem_wire::port;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::boot::elf::{self, KernelError};
use crate::boot::{self, BootError, Entry, Platform, Protocol};
use crate::console_input::ConsoleInput;
use crate::devices::{DeviceConfig, DeviceError, Devices};
use crate::exit_code::ExitCode;
use crate::kvm::control::{VcpuControl, VcpuThreads};
use crate::kvm::exits::End;
use crate::kvm::host::{Host, HostError};
use crate::kvm::run_loop::Shared;
use crate::kvm::vcpu::Vcpu;
use crate::kvm::vm::Vm;
use crate::kvm::{KvmError, affinity};
use crate::memory::arming::ArmError;
use crate::memory::managed::ManagedMemory;
use crate::memory::plan::Plan;
use crate::memory::ram::{GuestRam, RamError};
use crate::memory::server::Server;
use crate::outcome::{Outcome, Reason};
use crate::poll::poll;
use crate::signals::TerminationSignals;
use gmem_devices::virtio::DeviceMemory;

/// How long vCPUs have to leave the guest at the end.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// What runs in the microVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The guest that comes with gmem.
    Bundled {
        /// Its ELF image.
        image: &'static [u8],
        /// `NAME key=value ...`
        workload: String,
        /// Words for its command line, before the workload.
        extra: String,
    },
    /// A kernel of the user's.
    Kernel {
        /// A 64-bit ELF file.
        path: PathBuf,
        /// Its command line.
        command_line: String,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
    },
}

/// A microVM to be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Bytes of memory, a multiple of 4 KiB.
    pub memory: u64,
    /// What holds the memory; `None` is plain memory.
    pub plan: Option<Plan>,
    /// How many vCPUs, at least one.
    pub cpus: usize,
    /// What it runs.
    pub payload: Payload,
    /// Its virtio devices.
    pub devices: DeviceConfig,
}

/// What is decided for a microVM otherwise than by its configuration: for measurements.
#[derive(Clone, Default)]
pub struct Setting {
    /// The host CPU of each vCPU; dealt in turn if not given.
    pub cpus: Option<Vec<usize>>,
    /// Who serves the memory, in place of the configuration's plan.
    pub server: Option<Arc<dyn Server>>,
}

/// Why a microVM could not be built or started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Its memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// What holds its memory.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// Its kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// What stands beside the kernel in memory.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Its devices.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// More vCPUs than KVM offers.
    #[error("{found} vCPUs asked for, this host's KVM offers at most {limit}; lower --cpus")]
    TooManyVcpus {
        /// Asked for.
        found: usize,
        /// Most that work.
        limit: usize,
    },
    /// The host's KVM.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A KVM call.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// CPUs or threads.
    #[error(
        "no threads for the vCPUs: {0}; look at `ulimit -u` and the cgroup's limit of processes"
    )]
    Threads(#[source] io::Error),
}

impl BuildError {
    /// Whose fault it is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Ram(_) | Self::Kernel(_) | Self::Boot(_) | Self::TooManyVcpus { .. } => {
                ExitCode::Usage
            }
            Self::Arm(error) if error.is_usage() => ExitCode::Usage,
            Self::Device(error) if error.is_usage() => ExitCode::Usage,
            Self::Arm(_) | Self::Device(_) | Self::Host(_) | Self::Kvm(_) | Self::Threads(_) => {
                ExitCode::HostLacks
            }
        }
    }
}

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
        let output = Output(Arc::new(Mutex::new(output)));
        let ram = Arc::new(GuestRam::new(config.memory)?);
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
        let device_memory: Arc<dyn DeviceMemory> = memory.clone();
        let devices = Devices::new(
            &vm,
            &device_memory,
            &config.devices,
            Box::new(output.clone()),
        )?;
        write_boot_information(&ram, config, &kernel, &devices, &vcpus)?;
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
        memory.arm_if_needed(&cpus)?;
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
        Ok(Running {
            threads,
            shared: self.shared,
            _vm: self.vm,
            memory: self.memory,
            console_drained: self.console_drained,
        })
    }
}

/// What [`Running::wait`] waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A vCPU ended: the run is over.
    Ended,
    /// The process was asked to end, by the signal of this name.
    Signal(&'static str),
    /// Neither, for as long as was asked.
    Timeout,
}

/// A microVM whose vCPUs run.
pub struct Running {
    threads: VcpuThreads,
    shared: Arc<Shared>,
    // The machine goes when its vCPUs are gone, and whoever serves its memory after that.
    _vm: Vm,
    memory: Arc<ManagedMemory>,
    console_drained: Option<EventFd>,
}

impl Running {
    /// The vCPU threads: to pause, resume and kick.
    pub fn vcpus(&self) -> &VcpuControl {
        self.threads.control()
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.shared.ram
    }

    /// The guest's memory and what holds it.
    pub fn memory(&self) -> &Arc<ManagedMemory> {
        &self.memory
    }

    /// Lets the user type on the guest's console, if it takes input, until the result is dropped. Once.
    pub fn console_input(&mut self) -> io::Result<Option<ConsoleInput>> {
        let shared = Arc::clone(&self.shared);
        let drained = self.console_drained.take();
        drained
            .map(|drained| ConsoleInput::start(shared, drained))
            .transpose()
    }

    /// Its virtio devices.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.shared.devices
    }

    /// Waits for the end of the run or a signal, for `limit` at most.
    pub fn wait(&self, signals: &TerminationSignals, limit: Option<Duration>) -> io::Result<Event> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            if self.vcpus().first_end().is_some() {
                return Ok(Event::Ended);
            }
            if let Some(name) = signals.take() {
                return Ok(Event::Signal(name));
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Event::Timeout);
            }
            poll(
                [self.vcpus().ended().as_raw_fd(), signals.as_raw_fd()],
                left,
            )?;
        }
    }

    /// Stops the vCPUs and says how the run ended: by the guest's own end if it has one, otherwise by the
    /// signal of the name given.
    pub fn finish(self, signal: Option<&'static str>) -> Outcome {
        // Taken before the stop: what comes after a signal does not matter.
        let own_end = self.vcpus().first_end();
        let entered = self.vcpus().entered();
        // A vCPU that waits for a page leaves the guest once it has it, and no sooner.
        self.memory.release_waiters();
        let ends = self.threads.stop(STOP_LIMIT);
        let idle = self.shared.devices.stop(STOP_LIMIT);
        self.shared.ports.finish();
        let reason = match (own_end, signal) {
            (Some((index, end)), _) => Reason::of_end(index, end),
            (None, Some(name)) => Reason::Signal {
                name,
                boot_vcpu: ends.first().cloned().flatten().and_then(position),
            },
            (None, None) => Reason::Asked,
        };
        Outcome {
            reason,
            entered,
            workload_began: self.shared.ports.workload_began(),
            result: self.shared.ports.result(),
            bundled: !self.shared.open_hole,
            note: None,
            abandoned: !idle || ends.iter().any(Option::is_none),
        }
    }

    /// Waits without a limit, then finishes. A second signal, during the finish, ends the process at once.
    pub fn run_to_end(self, signals: &TerminationSignals) -> io::Result<Outcome> {
        let signal = match self.wait(signals, None)? {
            Event::Signal(name) => Some(name),
            Event::Ended | Event::Timeout => None,
        };
        signals.let_the_next_one_kill();
        Ok(self.finish(signal))
    }
}

/// The user's output, which consoles share.
#[derive(Clone)]
struct Output(Arc<Mutex<Box<dyn Write + Send>>>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

fn position(end: End) -> Option<crate::kvm::exits::Position> {
    end.position
}

fn write_boot_information(
    ram: &GuestRam,
    config: &Config,
    kernel: &elf::Kernel,
    devices: &Devices,
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
            let mut text = format!("gmem.cpus={} gmem.tsc_khz={tsc_khz} ", config.cpus);
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
            let text = format!("{command_line}{}", devices.command_line());
            boot::write(ram, kernel, &platform, &text, initrd.as_ref())?;
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
        vcpus.iter().try_for_each(Vcpu::set_as_firmware_does)?;
    }
    vcpus
        .iter()
        .take(entering)
        .try_for_each(|vcpu| vcpu.enter(entry))
}
