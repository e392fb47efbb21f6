//! A guest's memory and what becomes of it while the guest runs.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use gmem_core::engine::{ConfigError, Engine, Snapshot};
use gmem_core::page::{PAGE_SIZE, Unit};

use super::arming::{ArmError, Armed, step};
use super::failure::Failure;
use super::page_use::{PageUse, PageUseError};
use super::pagemap::Pagemap;
use super::plan::Plan;
use super::plugging::Plugged;
use super::ram::GuestRam;
use super::reserve::Backing;
use super::server::{Server, Serving};
use super::swap::{Swapping, Use};
use crate::devices::Devices;
use crate::kvm::control::{StillRunning, VcpuControl};

/// How long vCPUs have to stand still for arming.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// A guest's memory: plain, or with a plan for when it does not fit.
///
/// Memory that fits its budget is plain memory until the budget shrinks: nothing is armed, nothing is
/// lost. From then on what exists is capped.
pub struct ManagedMemory {
    ram: Arc<GuestRam>,
    /// `None`: plain for ever.
    plan: Option<Mutex<Plan>>,
    /// Of the vCPUs, once they are known.
    cpus: OnceLock<Vec<usize>>,
    armed: OnceLock<Armed>,
    /// The kernel's swap is beneath it, and it stays plain.
    swapping: OnceLock<Swapping>,
    /// Set: accelerators share it.
    shared: OnceLock<()>,
    /// Held, not to write, by who changes which pages of plain memory are present; to write while these are
    /// counted.
    arming: RwLock<()>,
    pub(super) plugged: Plugged,
    /// Somebody else's, in place of a plan.
    server: Option<Arc<dyn Server>>,
    serving: OnceLock<Box<dyn Serving>>,
    failure: Arc<Failure>,
}

/// Why the budget was not changed.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// There is none.
    #[error(
        "this microVM has plain memory (--tier none) and no budget to change; start it with --tier host:SIZE"
    )]
    Plain,
    /// It is a cgroup's limit.
    #[error(
        "the kernel's swap holds what does not fit this microVM's memory: its budget is the limit of its cgroup; change {0}"
    )]
    Swap(String),
    /// The size does not do.
    #[error(transparent)]
    Sizes(#[from] ConfigError),
    /// Arming failed.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// vCPUs do not stand still.
    #[error(transparent)]
    Pause(#[from] StillRunning),
}

impl ManagedMemory {
    /// Takes over `ram`. Without a plan it stays plain.
    pub fn new(ram: Arc<GuestRam>, plan: Option<Plan>) -> Self {
        Self {
            plugged: Plugged::none(ram.pluggable()),
            ram,
            plan: plan.map(Mutex::new),
            cpus: OnceLock::new(),
            armed: OnceLock::new(),
            swapping: OnceLock::new(),
            shared: OnceLock::new(),
            arming: RwLock::default(),
            server: None,
            serving: OnceLock::new(),
            failure: Arc::default(),
        }
    }

    /// Takes over `ram`, to be served by `server` from the start; there is no plan and no budget.
    pub fn served_by(ram: Arc<GuestRam>, server: Arc<dyn Server>) -> Self {
        Self {
            server: Some(server),
            ..Self::new(ram, None)
        }
    }

    /// Before anything is loaded: asks for the page size that the plan moves.
    pub fn prepare(&self) -> Result<(), ArmError> {
        if self.server.is_some() {
            let small = self.ram.set_backing(Backing::Small);
            return small.map_err(step("page size of guest memory"));
        }
        if self.unit() == Some(Unit::Block) && !self.fits() {
            let huge = self.ram.set_backing(Backing::Huge);
            return huge.map_err(step("page size of guest memory"));
        }
        Ok(())
    }

    /// Before the vCPUs run, on `cpus`: arms memory that does not fit its budget.
    pub fn arm_if_needed(&self, cpus: &[usize]) -> Result<(), ArmError> {
        // Called once.
        let _ = self.cpus.set(cpus.to_vec());
        if let Some(server) = &self.server {
            let serving = server.serve(&self.ram, cpus, &self.failure)?;
            // Armed once: the memory is not shared yet.
            let _ = self.serving.set(serving);
            return Ok(());
        }
        if self.swap().is_some() {
            let swapping = Swapping::start().map_err(step("helping the kernel swap"))?;
            let _ = self.swapping.set(swapping);
            return Ok(());
        }
        if self.fits() { Ok(()) } else { self.arm() }
    }

    /// The same for memory that accelerators share: it is armed whether it fits or not.
    pub fn arm_for_accelerators(&self, cpus: &[usize]) -> Result<(), ArmError> {
        let _ = self.shared.set(());
        self.arm_if_needed(cpus)?;
        match self.engine() {
            Some(_) => Ok(()),
            None => self.arm(),
        }
    }

    /// Changes the host budget, in bytes, while the guest runs; arms memory if it no longer fits.
    ///
    /// One caller at a time.
    pub fn set_budget(
        &self,
        bytes: u64,
        vcpus: &VcpuControl,
        devices: &Devices,
    ) -> Result<(), BudgetError> {
        let plan = self.plan.as_ref().ok_or(BudgetError::Plain)?;
        if let Some(swapping) = self.swapping.get() {
            return Err(BudgetError::Swap(swapping.limit().display().to_string()));
        }
        let before = {
            let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut plan.budget, bytes)
        };
        let changed = match self.engine() {
            Some(engine) => engine
                .set_budget(bytes / PAGE_SIZE as u64)
                .map_err(BudgetError::from),
            None if self.fits() => Ok(()),
            // Not a pause: whether the user has paused the guest is no business of arming.
            None => match vcpus.hold(PAUSE_LIMIT) {
                Ok(_held) => {
                    // vCPUs first: one may be waiting for a device.
                    let _still = devices.hold();
                    self.arm().map_err(BudgetError::from)
                }
                Err(still_running) => Err(still_running.into()),
            },
        };
        if changed.is_err() {
            plan.lock().unwrap_or_else(PoisonError::into_inner).budget = before;
        }
        changed
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Arc<GuestRam> {
        &self.ram
    }

    /// The engine, if memory is armed.
    pub fn engine(&self) -> Option<&Arc<Engine>> {
        self.armed.get().map(|armed| &armed.engine)
    }

    /// The engine's numbers, if memory is armed.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.engine().map(|engine| engine.snapshot())
    }

    /// The host budget, bytes, if there is one.
    pub fn budget(&self) -> Option<u64> {
        let plan = self
            .plan
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(plan.budget)
    }

    /// Bytes that the kernel's swap is to hold, if that is beneath memory.
    fn swap(&self) -> Option<u64> {
        let plan = self.plan.as_ref()?;
        plan.lock().unwrap_or_else(PoisonError::into_inner).swap()
    }

    /// What the kernel's swap holds, with its size in bytes; `None` if another tier, or none, is beneath memory.
    pub fn swapped(&self) -> Option<(u64, Use)> {
        Some((self.swap()?, self.swapping.get()?.used()))
    }

    /// Why memory cannot go on, if it cannot.
    pub fn failure(&self) -> Option<String> {
        self.failure.get()
    }

    /// Lets every vCPU go that waits for room, beyond the budget: the microVM ends.
    pub fn release_waiters(&self) {
        if let Some(engine) = self.engine() {
            engine.release_waiters();
        }
    }

    /// Bytes of frames of host RAM that guest and arena have.
    pub fn resident_bytes(&self) -> u64 {
        if let Some(engine) = self.engine() {
            return engine.arena().existing() * PAGE_SIZE as u64;
        }
        let Ok(pagemap) = Pagemap::open() else {
            return 0;
        };
        let present = |start: u64, size: u64| {
            let runs = pagemap
                .scan(self.ram.base() + start as usize, size as usize)
                .unwrap_or_default();
            runs.iter()
                .filter(|run| !run.zero && !run.swapped)
                .map(|run| run.len as u64)
                .sum::<u64>()
        };
        self.ram
            .mapped()
            .map(|region| present(region.start, region.size))
            .sum()
    }

    /// Who can tell which pages the vCPUs use; `None` for memory that is plain, or shared with accelerators, whose
    /// copies are write-protected.
    ///
    /// # Errors
    /// See [`PageUseError`].
    pub fn page_use(&self) -> Result<Option<PageUse>, PageUseError> {
        let cpus = self.cpus.get().map_or(&[][..], Vec::as_slice);
        let armed = self.armed.get().filter(|_| self.shared.get().is_none());
        armed
            .map(|armed| PageUse::open(&self.ram, &armed.userfault, cpus))
            .transpose()
    }

    /// Whether somebody else serves the memory.
    pub(super) fn is_served(&self) -> bool {
        self.server.is_some()
    }

    /// Does `work` on memory that is plain and stays so meanwhile; `None`, undone, if it is not.
    pub(super) fn while_plain<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let _plain = self.arming.read().unwrap_or_else(PoisonError::into_inner);
        self.armed.get().is_none().then(work)
    }

    pub(super) fn record_failure(&self, error: impl std::fmt::Display) {
        self.failure.record(error);
    }

    fn unit(&self) -> Option<Unit> {
        let plan = self
            .plan
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Some(plan.unit)
    }

    fn fits(&self) -> bool {
        // With all that may be plugged in: who touches that unasked stays within the budget too.
        let most = self.ram.mapped().map(|region| region.size).sum::<u64>();
        self.budget().is_none_or(|budget| most <= budget)
    }

    fn arm(&self) -> Result<(), ArmError> {
        let Some(plan) = &self.plan else {
            return Ok(());
        };
        let plan = plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let plugged = self.plugged.lock();
        let _arming = self.arming.write().unwrap_or_else(PoisonError::into_inner);
        let cpus = self.cpus.get().map_or(&[][..], Vec::as_slice);
        let unplugged = plugged.unplugged_bytes();
        let armed = Armed::new(&self.ram, unplugged, &plan, cpus, &self.failure)?;
        // Whoever came first has armed it; there is one caller at a time.
        let _ = self.armed.set(armed);
        Ok(())
    }
}
