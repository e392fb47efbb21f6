//! `donor`: lends memory of the first accelerator to other microVMs, by the pager's protocol (docs/pager-protocol.md).
//!
//! Requests come through a queue of the virtio-gmem. What is lent lies in guest-physical memory that the accelerator has: its
//! own unit copies bytes between that and the queue's buffers, and zeroes what is given back. No vCPU touches it. All
//! else that serving needs is pinned in host RAM before the first request, so that none of it ever waits for somebody else's memory.

mod clients;
mod frames;
mod layout;
mod pages;
mod rest;
mod serve;
mod unit;

use super::accelerated::account::Failure;
use super::{Crew, Machine, Tally};
use crate::accel::calls::Calls;
use crate::accel::xpu::Xpu;
use crate::accel::{PATIENCE_US, Present};
use crate::clock::cycles;
use crate::extent::Extent;
use crate::math::random::Random;
use crate::memory::WorkingSet;
use crate::plan::{Plan, PlanError, Workload};
use crate::virtio::Fault;
use crate::virtio::registers::Registers;
use clients::Clients;
use frames::Frames;
use gmem_wire::gmem::{advice, call, feature};
use gmem_wire::xpu::{config, op};
use layout::Layout;
use rest::Rest;
use serve::Server;
use unit::{Accelerator, Moves};

/// Clients at once.
const CLIENTS: usize = 8;
/// Requests of a client that may be under way at once.
const CREDITS: u16 = 8;
/// For so many seconds the pages of a client are kept whose connection broke.
const KEEP_S: u32 = 60;
/// Microseconds between looks at who has been away for long, and whether the device is broken.
const LOOK_US: u64 = 100_000;
/// Streams of random numbers.
const SECRETS: u64 = 1 << 33;

/// What was lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lending {
    /// Bytes on offer.
    pub lent_bytes: u64,
    /// Clients that there have been.
    pub clients: u64,
    /// Clients that had not taken leave in the end.
    pub clients_left: u64,
    /// Requests of all kinds.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Pages that clients have read.
    pub pages_read: u64,
    /// Pages that clients have written.
    pub pages_written: u64,
}

impl Lending {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            lent_bytes: 0,
            clients: 0,
            clients_left: 0,
            requests: 0,
            refused: 0,
            pages_read: 0,
            pages_written: 0,
        }
    }

    /// Adds another CPU's.
    pub fn merge(&mut self, other: &Self) {
        self.lent_bytes += other.lent_bytes;
        self.clients += other.clients;
        self.clients_left += other.clients_left;
        self.requests += other.requests;
        self.refused += other.refused;
        self.pages_read += other.pages_read;
        self.pages_written += other.pages_written;
    }
}

/// The devices that a donor needs.
#[derive(Clone, Copy)]
struct Devices {
    accelerator: usize,
    gmem: usize,
    /// Bytes of the accelerator's memory.
    memory: u64,
}

impl Devices {
    fn find<M: Machine>(machine: &M, workload: &'static str) -> Result<Self, PlanError<'static>> {
        let present = Present::find(machine);
        let Some(&accelerator) = present.accelerators().first() else {
            return Err(PlanError::NoAccelerator { workload });
        };
        let offers =
            |number: &usize| Registers::new(machine, *number).offered() & feature::PAGER != 0;
        let gmem = present.gmem.filter(offers);
        let gmem = gmem.ok_or(PlanError::NoPager { workload })?;
        Ok(Self {
            accelerator,
            gmem,
            memory: Registers::new(machine, accelerator).config(config::MEMORY),
        })
    }
}

/// Whether the plan's workload, if it is this one, can run with the machine's devices in `set`, which is in one piece.
///
/// # Errors
///
/// A device is missing, or there is too little memory.
pub fn fits<M: Machine>(
    plan: &Plan,
    set: &WorkingSet,
    machine: &M,
) -> Result<(), PlanError<'static>> {
    let Workload::Donor { size } = plan.workload else {
        return Ok(());
    };
    let devices = Devices::find(machine, plan.name)?;
    Layout::new((set.address(0), set.pages()), size, devices.memory).map(drop)
}

/// What is wrong, and with which device.
type Trouble = (&'static str, Fault);

fn of(device: &'static str) -> impl Fn(Fault) -> Trouble {
    move |what| (device, what)
}

pub(super) fn run<M: Machine>(crew: &Crew<'_, M>, size: Option<u64>, tally: &mut Tally) {
    // One CPU serves: a request is a few commands to the accelerator.
    if crew.cpu != 0 {
        return;
    }
    if let Err((device, what)) = lend(crew, size, tally) {
        crew.machine.line(format_args!("guest: {device} 0: {what}"));
        tally.accel.fail(Failure {
            device,
            number: 0,
            what,
            cpu: crew.cpu,
        });
    }
}

fn lend<M: Machine>(
    crew: &Crew<'_, M>,
    size: Option<u64>,
    tally: &mut Tally,
) -> Result<(), Trouble> {
    let (machine, set) = (crew.machine, crew.set);
    // `fits` was asked before.
    let devices =
        Devices::find(machine, crew.plan.name).map_err(|_| ("gmem", "it is not there any more"))?;
    let layout = Layout::new((set.address(0), set.pages()), size, devices.memory)
        .map_err(|_| ("xpu", "its memory is less than it was"))?;
    let ram = Extent::new(set, 0).ok_or(("ram", "it is not in one piece"))?;
    let patience = crew.frequency.cycles(PATIENCE_US);
    let began = cycles();
    let xpu = Xpu::start(machine, devices.accelerator, (ram, layout.rings), patience);
    let mut xpu = xpu.map_err(of("xpu"))?;
    let place = (ram, layout.door, layout.calls);
    let calls = Calls::start(machine, devices.gmem, place, patience);
    let mut calls = calls.map_err(of("gmem"))?;
    let node = xpu.node;
    // What serving needs stays here: image, stacks and tables, which lie below the working set, and what lies behind what is lent.
    let frames = Frames::new(ram, layout);
    let pieces = [(0, layout.lent), (layout.records, layout.end)];
    for (from, to) in pieces {
        calls
            .gmem
            .advise(0, from, to - from, advice::PIN)
            .map_err(of("gmem"))?;
    }
    // Zeros come into being in the accelerator's memory, and stay there.
    let (at, len) = (layout.lent, layout.lent_bytes());
    let zeroed = xpu.ask(crate::accel::xpu::WORK, op::FILL, &[at, len, 0]);
    zeroed.map_err(of("xpu"))?;
    let pinned = calls.gmem.advise(node, at, len, advice::PIN);
    if !pinned.map_err(of("gmem"))? {
        return Err(("xpu", "not all that is lent could be pinned in its memory"));
    }
    let mut random = Random::new(crew.plan.seed ^ cycles(), SECRETS);
    let mut clients = Clients::new([random.bits(), random.bits()]);
    let incarnation = clients.random(cycles());
    let keep = crew.frequency.cycles(u64::from(KEEP_S) * 1_000_000);
    let mut server = Server {
        ram,
        layout,
        moves: Moves::new(Accelerator::new(xpu, Rest::new(crew))),
        frames,
        clients,
        incarnation,
        keep: (KEEP_S, keep),
        counts: Lending::new(),
    };
    tally.warmup_cycles += cycles().saturating_sub(began);
    machine.line(format_args!(
        "guest: donor lends {} pages of accelerator 0",
        layout.pages
    ));
    let began = cycles();
    let served = serve(crew, &mut calls, &mut server);
    tally.timed_cycles += cycles().saturating_sub(began);
    tally.ops += server.counts.requests;
    tally.lending = Lending {
        lent_bytes: layout.pages * crate::memory::PAGE_SIZE,
        clients: server.clients.admitted,
        clients_left: server.clients.count() as u64,
        ..server.counts
    };
    tally.accel.accelerators += 1;
    let mut xpu = server.moves.unit.xpu;
    let checked = served.and_then(|()| match tally.lending.clients_left {
        // Whoever has taken leave has left nothing behind.
        0 => xpu
            .ask(crate::accel::xpu::WORK, op::SUM, &[at, len])
            .map_err(of("xpu"))
            .map(|sum| {
                tally.compared += len;
                tally.mismatched += if sum.response.value == 0 { 0 } else { 8 };
            }),
        _ => Ok(()),
    });
    tally.accel.commands += xpu.commands;
    // Neither touches memory any more.
    xpu.stop();
    calls.gmem.stop();
    checked
}

/// Serves until the monitor says that it is enough.
fn serve<M: Machine>(
    crew: &Crew<'_, M>,
    calls: &mut Calls<'_, M>,
    server: &mut Server<'_, Accelerator<'_, M>>,
) -> Result<(), Trouble> {
    for chain in 0..crate::accel::calls::CHAINS {
        calls.post(chain, 0);
    }
    let look = crew.frequency.cycles(LOOK_US);
    let mut looked = cycles();
    let mut rest = Rest::new(crew);
    loop {
        let now = cycles();
        if let Some(incoming) = calls.poll().map_err(of("gmem"))? {
            if incoming.call.kind == call::END {
                return Ok(());
            }
            let len = server.serve(&incoming, now).map_err(of("xpu"))?;
            calls.post(incoming.chain, len);
            rest.over();
            continue;
        }
        if now.saturating_sub(looked) > look {
            looked = now;
            if calls.is_broken() {
                return Err(("gmem", "answers by the rules broke the device"));
            }
            server.forget_lost(now).map_err(of("xpu"))?;
        }
        rest.take();
    }
}

#[cfg(test)]
mod tests;
