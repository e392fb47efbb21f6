//! The vCPUs at work with accelerators: each drives some of them, and all begin and end a phase together.

use super::account::Failure;
use super::layout::Layout;
use super::{Crew, Machine, Tally};
use crate::accel::gmem::Gmem;
use crate::accel::xpu::{self, Xpu};
use crate::accel::{PATIENCE_US, Present};
use crate::extent::Extent;
use crate::memory::PAGE_SIZE;
use crate::virtio::Fault;
use crate::virtio::registers::Registers;
use core::cell::Cell;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Acquire};
use gmem_wire::gmem::kind;
use gmem_wire::layout::VIRTIO_DEVICES;

/// What is wrong, and with which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    device: &'static str,
    number: usize,
    what: Fault,
}

/// Words that all CPUs share, each in a cache line of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shared {
    /// The phase in which a device failed; 0 while none has.
    Failed,
    /// Operations that nobody has begun.
    Left,
    /// Operations that somebody has begun.
    Begun,
    /// Operations that accelerators have done.
    Done,
}

/// The accelerators that a CPU drives, each at its number.
pub(super) type Own<'c, M> = [Option<Xpu<'c, M>>; VIRTIO_DEVICES];

/// A CPU, and what it shares with the others.
pub(super) struct Team<'a, 'c, M> {
    pub(super) crew: &'a Crew<'c, M>,
    pub(super) ram: Extent<'c>,
    pub(super) layout: Layout,
    present: Present,
    phase: Cell<u64>,
}

impl<'a, 'c, M: Machine> Team<'a, 'c, M> {
    /// Every CPU of the crew must call it. None, for all alike, if the workload does not fit.
    pub(super) fn new(crew: &'a Crew<'c, M>) -> Option<Self> {
        let present = Present::find(crew.machine);
        let count = present.accelerators().len();
        let layout = Layout::new(crew.plan, crew.set, count).ok()?;
        let ram = Extent::new(crew.set, 0)?;
        crew.timed(|| {
            if crew.cpu == 0 {
                ram.clear(layout.shared..layout.gmem);
            }
        });
        Some(Self {
            crew,
            ram,
            layout,
            present,
            phase: Cell::new(0),
        })
    }

    /// How many accelerators there are.
    pub(super) fn accelerators(&self) -> usize {
        self.present.accelerators().len()
    }

    /// Whether this CPU drives accelerator `number`.
    pub(super) fn drives(&self, number: usize) -> bool {
        number % self.crew.cpus == self.crew.cpu
    }

    pub(super) fn shared(&self, word: Shared) -> &'c AtomicU64 {
        self.ram.word(self.layout.shared + 64 * word as u64)
    }

    /// What one CPU of all does until all have done it; its cycles. None if a device failed: then all CPUs stop here.
    pub(super) fn phase(
        &self,
        tally: &mut Tally,
        work: impl FnOnce(&mut Tally) -> Result<(), Trouble>,
    ) -> Option<u64> {
        let phase = self.phase.get() + 1;
        self.phase.set(phase);
        let cycles = self.crew.timed(|| {
            if let Err(trouble) = work(tally) {
                self.report(trouble, phase, tally);
            }
        });
        // Another CPU may be in the next phase already: what fails there counts there.
        let failed = self.shared(Shared::Failed).load(Acquire);
        (failed == 0 || failed > phase).then_some(cycles)
    }

    /// Whether some device failed in this phase: nobody need wait for others any more.
    #[inline]
    pub(super) fn stopped(&self) -> bool {
        self.shared(Shared::Failed).load(Acquire) != 0
    }

    #[cold]
    fn report(&self, trouble: Trouble, phase: u64, tally: &mut Tally) {
        let failed = self.shared(Shared::Failed);
        // The first phase stays.
        let _ = failed.compare_exchange(0, phase, AcqRel, Acquire);
        let Trouble {
            device,
            number,
            what,
        } = trouble;
        self.crew
            .machine
            .line(format_args!("guest: {device} {number}: {what}"));
        tally.accel.fail(Failure {
            device,
            number,
            what,
            cpu: self.crew.cpu,
        });
    }

    /// Makes the accelerators ready that this CPU drives.
    pub(super) fn start(&self, own: &mut Own<'c, M>, tally: &mut Tally) -> Result<(), Trouble> {
        for (number, device) in self.present.accelerators().iter().enumerate() {
            if self.drives(number) {
                let area = self.layout.rings(number);
                let machine = self.crew.machine;
                let xpu = Xpu::start(machine, *device, (self.ram, area), self.patience());
                own[number] = Some(xpu.map_err(of(number))?);
                tally.accel.accelerators += 1;
            }
        }
        Ok(())
    }

    /// When nothing is in flight any more, asks how much of the data is in accelerators' memory, if somebody can be asked.
    pub(super) fn locate(&self, own: &mut Own<'c, M>, tally: &mut Tally) -> Option<()> {
        self.phase(tally, |_| {
            for (number, xpu) in own.iter_mut().enumerate() {
                if let Some(xpu) = xpu {
                    xpu.finish_hints().map_err(of(number))?;
                }
            }
            Ok(())
        })?;
        self.phase(tally, |tally| {
            if self.crew.cpu == 0 {
                tally.accel.local_bytes = self.local_bytes().map_err(|what| Trouble {
                    device: "gmem",
                    number: 0,
                    what,
                })?;
            }
            Ok(())
        })?;
        Some(())
    }

    fn local_bytes(&self) -> Result<Option<u64>, Fault> {
        let Some(number) = self.present.gmem else {
            return Ok(None);
        };
        let (machine, place) = (self.crew.machine, (self.ram, self.layout.gmem));
        let mut gmem = Gmem::start(machine, number, place, self.patience())?;
        let mut local = 0;
        let (data, len) = (self.layout.data, self.layout.data_pages * PAGE_SIZE);
        for device in self.present.accelerators() {
            let node = xpu::node(&Registers::new(machine, *device));
            if gmem.node(node)?.is_some_and(|node| node.kind != kind::HBM) {
                return Err("an accelerator's node is none of accelerator memory to it");
            }
            local += gmem.bytes_in(node, data, len)?;
        }
        gmem.stop();
        match local <= len {
            true => Ok(Some(local)),
            false => Err("more is in accelerators' memory than there is"),
        }
    }

    /// Resets what this CPU drives: memory is nobody else's from here on.
    pub(super) fn stop(&self, own: &Own<'c, M>, tally: &mut Tally) {
        for xpu in own.iter().flatten() {
            xpu.stop();
            tally.accel.commands += xpu.commands;
        }
    }

    fn patience(&self) -> u64 {
        self.crew.frequency.cycles(PATIENCE_US)
    }

    /// A share of the data's pages.
    pub(super) fn pages(&self, share: usize) -> core::ops::Range<u64> {
        self.crew
            .share(self.layout.data_pages, share % self.crew.cpus)
    }
}

/// Says which accelerator it is that something is wrong with.
pub(super) fn of(number: usize) -> impl Fn(Fault) -> Trouble {
    move |what| Trouble {
        device: "xpu",
        number,
        what,
    }
}
