//! What moves pages: an accelerator, or in tests something else.

use super::rest::Rest;
use crate::accel::stream::DEPTH;
use crate::accel::xpu::{WORK, Xpu, carried_out};
use crate::virtio::Fault;
use crate::work::Machine;
use gmem_wire::xpu::{op, status};

/// What is to be done. Jobs are done in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Copy { from: u64, to: u64, len: u64 },
    Zero { at: u64, len: u64 },
}

/// Who does jobs.
pub(super) trait Unit {
    /// Begins a job, or puts it behind others.
    fn submit(&mut self, job: Job) -> Result<(), Fault>;

    /// Waits until all jobs have ended. False if one of them found no room.
    fn finish(&mut self) -> Result<bool, Fault>;
}

/// Jobs that go on where the last one ended are one.
pub(super) struct Moves<U> {
    pub(super) unit: U,
    next: Option<Job>,
}

impl<U: Unit> Moves<U> {
    pub(super) fn new(unit: U) -> Self {
        Self { unit, next: None }
    }

    pub(super) fn add(&mut self, job: Job) -> Result<(), Fault> {
        let joined = self.next.and_then(|last| joined(last, job));
        match joined {
            Some(joined) => self.next = Some(joined),
            None => {
                if let Some(last) = self.next.replace(job) {
                    self.unit.submit(last)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<bool, Fault> {
        if let Some(last) = self.next.take() {
            self.unit.submit(last)?;
        }
        self.unit.finish()
    }
}

fn joined(last: Job, job: Job) -> Option<Job> {
    match (last, job) {
        (
            Job::Zero { at, len },
            Job::Zero {
                at: next,
                len: more,
            },
        ) if at + len == next => Some(Job::Zero {
            at,
            len: len + more,
        }),
        (
            Job::Copy { from, to, len },
            Job::Copy {
                from: next_from,
                to: next_to,
                len: more,
            },
        ) if from + len == next_from && to + len == next_to => Some(Job::Copy {
            from,
            to,
            len: len + more,
        }),
        _ => None,
    }
}

/// An accelerator.
pub(super) struct Accelerator<'a, M> {
    pub(super) xpu: Xpu<'a, M>,
    rest: Rest<'a, M>,
    short: bool,
}

impl<'a, M: Machine> Accelerator<'a, M> {
    pub(super) fn new(xpu: Xpu<'a, M>, rest: Rest<'a, M>) -> Self {
        Self {
            xpu,
            rest,
            short: false,
        }
    }

    fn take_answer(&mut self) -> Result<(), Fault> {
        let Some(answer) = self.xpu.poll(WORK)? else {
            self.rest.take();
            return Ok(());
        };
        self.rest.over();
        match answer.response.status {
            status::NO_MEMORY => self.short = true,
            _ => carried_out(&answer)?,
        }
        Ok(())
    }
}

impl<M: Machine> Unit for Accelerator<'_, M> {
    fn submit(&mut self, job: Job) -> Result<(), Fault> {
        while self.xpu.in_flight(WORK) == DEPTH {
            self.take_answer()?;
        }
        match job {
            Job::Copy { from, to, len } => self.xpu.submit(WORK, op::COPY, &[from, to, len])?,
            Job::Zero { at, len } => self.xpu.submit(WORK, op::FILL, &[at, len, 0])?,
        };
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, Fault> {
        while self.xpu.in_flight(WORK) > 0 {
            self.take_answer()?;
        }
        Ok(!core::mem::take(&mut self.short))
    }
}
