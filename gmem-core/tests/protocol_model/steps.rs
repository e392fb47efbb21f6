//! What the steps of the engine's threads do: those of a fault here, the others in `evict`.

use super::protocol::{Action, Fault, Protocol};
use super::state::*;

/// How a step turns out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    Good,
    Busy,
    Fails,
}

impl Protocol {
    /// Does `action`, which is a thread's, and what belongs to it.
    pub fn step(&self, state: &mut State, action: Action) {
        self.begin(state, action);
        for number in 0..THREADS {
            while state.wrong.is_none() && self.runs_on(state, number) {
                self.go(state, number, Luck::Good);
            }
        }
    }

    fn begin(&self, state: &mut State, action: Action) {
        match action {
            Action::ReadEvent(number, along) => {
                if let Vcpu::Faulted(access) = state.accessors[number].vcpu {
                    state.accessors[number].vcpu = Vcpu::Waits(access);
                    state.threads[number].step = Step::Lock {
                        page: access.page,
                        along,
                    };
                }
            }
            Action::Retry(page) => {
                state.waiting &= !(1 << page);
                state.threads[BACKGROUND].step = Step::Lock { page, along: false };
            }
            Action::Expel(number, page) => {
                if let Some(slot) = state.take_empty() {
                    state.entries[page].locked = true;
                    state.threads[number].step = match self.fault {
                        Some(Fault::CopyBeforeUnmap) => Step::Store {
                            page,
                            slot,
                            tier: 0,
                        },
                        _ => Step::Unmap { page, slot },
                    };
                }
            }
            Action::PassOn(number) => self.pass_on(state, number),
            Action::GiveUp(number) => give_up(state, number),
            Action::Demote(page) => {
                let from = state.entries[page].place;
                state.entries[page].locked = true;
                state.threads[BACKGROUND].step = Step::DemoteLoad { page, from };
            }
            Action::Give(page) => {
                state.gives_left -= 1;
                state.threads[DEVICE].step = Step::GiveLock { page };
            }
            Action::Go(number) => self.go(state, number, Luck::Good),
            Action::Busy(number) => {
                state.failures_left -= 1;
                self.go(state, number, Luck::Busy);
            }
            Action::Fail(number) => {
                state.failures_left -= 1;
                self.go(state, number, Luck::Fails);
            }
            Action::Access(..) | Action::SetBudget => {}
        }
    }

    fn go(&self, state: &mut State, number: usize, luck: Luck) {
        let step = state.threads[number].step;
        match step {
            Step::Lock { page, along } => {
                state.entries[page].locked = true;
                let held = 1 << page;
                state.threads[number] = Thread {
                    step: Step::Look { along },
                    bring: Some(Bring {
                        touched: page,
                        held,
                    }),
                };
            }
            Step::Load(_)
            | Step::Map(_)
            | Step::Wake(_)
            | Step::Commit(_)
            | Step::FreeSource(_) => {
                self.bring_step(state, number, step, luck);
            }
            Step::Look { along } => self.look(state, number, along),
            Step::Pick => self.pick(state, number),
            Step::Room => self.pick(state, number),
            Step::PutAside { page } => {
                if self.fault != Some(Fault::ForgetWaiting) {
                    state.waiting |= 1 << page;
                }
                state.threads[number].step = Step::Idle;
            }
            Step::Unmap { .. }
            | Step::Flush { .. }
            | Step::CommitStaged { .. }
            | Step::Queue { .. } => {
                self.expel_step(state, number, step, luck);
            }
            Step::GiveLock { .. }
            | Step::GiveUnmap { .. }
            | Step::GiveFlush { .. }
            | Step::GiveCommit { .. }
            | Step::GiveFree { .. } => self.give_step(state, number, step, luck),
            _ => self.store_step(state, number, step, luck),
        }
    }

    fn look(&self, state: &mut State, number: usize, along: bool) {
        let Some(mut bring) = state.threads[number].bring else {
            return;
        };
        if state.entries[bring.touched].place == Place::Mapped {
            state.wake(bring.touched);
            return end(state, number, Step::Idle);
        }
        let other = 1 - bring.touched;
        if along && state.available() > 0 && state.try_lock(other, |place| place != Place::Mapped) {
            bring.held |= 1 << other;
        }
        state.threads[number] = Thread {
            step: Step::Pick,
            bring: Some(bring),
        };
    }

    fn pick(&self, state: &mut State, number: usize) {
        let Some(mut bring) = state.threads[number].bring else {
            return;
        };
        let page = bring.held.trailing_zeros() as usize;
        if page >= PAGES {
            return end(state, number, Step::Idle);
        }
        let before = state.entries[page].place;
        state.threads[number].step = match before {
            // It needs no frame: its own comes back.
            Place::Staged(slot) => Step::Map(Incoming {
                page,
                slot,
                before,
                fresh: false,
            }),
            _ => match state.take_frame() {
                Some((slot, fresh)) => Step::Load(Incoming {
                    page,
                    slot,
                    before,
                    fresh,
                }),
                // What would have come along does not.
                None if bring.held & 1 << bring.touched == 0 => {
                    return end(state, number, Step::Idle);
                }
                None => {
                    state.unlock_all(bring.held & !(1 << bring.touched));
                    bring.held = 1 << bring.touched;
                    state.threads[number].bring = Some(bring);
                    Step::Room
                }
            },
        };
    }

    fn bring_step(&self, state: &mut State, number: usize, step: Step, luck: Luck) {
        let next = match step {
            Step::Load(_) if luck != Luck::Good => return fatal(state, number, step),
            Step::Load(incoming) => {
                let bytes = state.bytes_at(incoming.page, incoming.before);
                if let Some(frame) = state.slots[incoming.slot].frame {
                    state.memory[frame] = Some(bytes.unwrap_or(GARBAGE));
                }
                if self.fault == Some(Fault::FreeBeforeMap) {
                    state.free_in_tier(incoming.before);
                }
                match self.fault {
                    Some(Fault::CommitBeforeMap) => Step::Commit(incoming),
                    Some(Fault::WakeBeforeMap) => Step::Wake(incoming),
                    _ => Step::Map(incoming),
                }
            }
            Step::Map(incoming) => match luck {
                Luck::Fails => return fatal(state, number, step),
                Luck::Busy => step,
                Luck::Good => {
                    state.map(incoming.page, incoming.slot);
                    match self.fault {
                        Some(Fault::WakeBeforeMap) => Step::Commit(incoming),
                        _ => Step::Wake(incoming),
                    }
                }
            },
            Step::Wake(incoming) => {
                state.wake(incoming.page);
                match self.fault {
                    Some(Fault::CommitBeforeMap) => Step::FreeSource(incoming),
                    Some(Fault::WakeBeforeMap) => Step::Map(incoming),
                    _ => Step::Commit(incoming),
                }
            }
            Step::Commit(incoming) => {
                state.commit(incoming.page, Place::Mapped);
                if let Some(bring) = &mut state.threads[number].bring {
                    bring.held &= !(1 << incoming.page);
                }
                match self.fault {
                    Some(Fault::CommitBeforeMap) => Step::Map(incoming),
                    _ => Step::FreeSource(incoming),
                }
            }
            Step::FreeSource(incoming) => {
                if self.fault != Some(Fault::FreeBeforeMap) {
                    state.free_in_tier(incoming.before);
                }
                state.empty_slot(incoming.slot);
                Step::Pick
            }
            _ => return,
        };
        state.threads[number].step = next;
    }
}

/// The thread made some room: on with the fault for which it did, if any.
pub fn back(state: &mut State, number: usize) {
    let thread = &mut state.threads[number];
    thread.step = match thread.bring {
        Some(_) => Step::Room,
        None => Step::Idle,
    };
}

/// Everything is full: a fault is put aside.
pub fn give_up(state: &mut State, number: usize) {
    match state.threads[number].bring {
        Some(Bring { touched, .. }) => {
            state.gave_up(touched, state.entries[touched].place);
            end(state, number, Step::PutAside { page: touched });
        }
        None => back(state, number),
    }
}

/// Lets go of all that a fault holds.
fn end(state: &mut State, number: usize, step: Step) {
    if let Some(bring) = state.threads[number].bring {
        state.unlock_all(bring.held);
    }
    state.threads[number] = Thread { step, bring: None };
}

/// The microVM cannot go on; what the step held is given back, and every page is where it was.
pub fn fatal(state: &mut State, number: usize, step: Step) {
    state.fatal = true;
    match step {
        Step::Load(incoming) | Step::Map(incoming) => {
            match incoming.before {
                Place::Staged(_) => {}
                _ => state.free_slot(incoming.slot, incoming.fresh),
            }
            state.gave_up(incoming.page, incoming.before);
        }
        Step::Unmap { page, slot } | Step::GiveUnmap { page, slot } => {
            state.empty_slot(slot);
            state.gave_up(page, Place::Mapped);
            state.unlock(page);
        }
        Step::DemoteLoad { page, from } => {
            state.gave_up(page, from);
            state.unlock(page);
        }
        _ => {}
    }
    end(state, number, Step::Idle);
}
