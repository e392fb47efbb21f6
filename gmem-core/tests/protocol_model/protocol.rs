//! The protocol as a model: who may do what next.

use super::state::*;
use stateright::{Model, Property};

/// Ways in which the protocol could be wrong; each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The entry says mapped, and is let go, before the page is.
    CommitBeforeMap,
    /// What the page was loaded from is freed before it is mapped.
    FreeBeforeMap,
    /// A page is copied to a tier while the guest can write it.
    CopyBeforeUnmap,
    /// An unmap does not wait for the accessors' acknowledgement.
    UnmapUnacknowledged,
    /// Who waits is woken before the map, and sleeps again without a new event.
    WakeBeforeMap,
    /// Fault handlers do not lock.
    NoLock,
    /// A page whose lock is held when it could be passed on leaves the queue for good.
    ForgetLocked,
    /// A fault that finds everything full is dropped.
    ForgetWaiting,
    /// A page that is given back is free before the accessors have acknowledged that it is gone.
    GiveUnacknowledged,
    /// A page is given back without its lock.
    GiveUnlocked,
}

/// The protocol, in one setting.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub fault: Option<Fault>,
    /// Frames of host RAM at the start.
    pub budget: usize,
    /// Changed to these, in this order, at any moment.
    pub budgets: Vec<usize>,
    /// Pages that each tier holds.
    pub tiers: [usize; TIERS],
    /// Accesses of each accessor.
    pub accesses: [u8; ACCESSORS],
    /// Pages that they touch, from the first on.
    pub touched: usize,
    pub failures: u8,
    /// Pages that are given back.
    pub gives: u8,
    /// Whether faults may bring the other page along.
    pub along: bool,
}

/// One step of one actor, with what chance decides about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An accessor begins this access, or tries again.
    Access(usize, Access),
    /// A handler reads its accessor's event, and plans to bring the other page along or not.
    ReadEvent(usize, bool),
    /// A thread does its next step.
    Go(usize),
    /// A thread's next step fails for good; for a store: is refused.
    Fail(usize),
    /// A thread's next move finds its page pinned.
    Busy(usize),
    /// A thread that makes room takes this page out of the guest's reach.
    Expel(usize, usize),
    /// A thread that makes room passes on what was staged first.
    PassOn(usize),
    /// A thread finds nothing with which to make room.
    GiveUp(usize),
    /// The background thread demotes this page.
    Demote(usize),
    /// The background thread tries the waiting fault of this page again.
    Retry(usize),
    /// A device's thread begins to give this page back.
    Give(usize),
    /// Somebody sets the next budget.
    SetBudget,
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let entry = Entry {
            place: Place::Untouched,
            locked: false,
        };
        let accessors = self.accesses.map(|left| Accessor {
            vcpu: Vcpu::Runs,
            left,
            tlb: [None; PAGES],
        });
        vec![State {
            entries: [entry; PAGES],
            guest: [None; PAGES],
            memory: [None; FRAMES],
            slots: [Slot {
                owner: Owner::Empty,
                frame: None,
            }; SLOTS],
            tiers: [[None; TIER_FRAMES]; TIERS],
            cap: self.budget,
            limit: self.budget,
            queue: Vec::new(),
            waiting: 0,
            written: [0; PAGES],
            writes: [0; PAGES],
            accessors,
            threads: [Thread {
                step: Step::Idle,
                bring: None,
            }; THREADS],
            failures_left: self.failures,
            gives_left: self.gives,
            budgets_left: self.budgets.len() as u8,
            fatal: false,
            wrong: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        for thread in 0..THREADS {
            self.thread_actions(state, thread, actions);
        }
        if state.fatal {
            return;
        }
        for (number, accessor) in state.accessors.iter().enumerate() {
            match accessor.vcpu {
                Vcpu::Runs if accessor.left > 0 => {
                    for page in 0..self.touched {
                        for writes in [false, true] {
                            actions.push(Action::Access(number, Access { page, writes }));
                        }
                    }
                }
                Vcpu::Woken(access) => actions.push(Action::Access(number, access)),
                _ => {}
            }
        }
        if state.budgets_left > 0 {
            actions.push(Action::SetBudget);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Access(number, access) => self.access(&mut state, number, access),
            Action::SetBudget => {
                let at = self.budgets.len() - usize::from(state.budgets_left);
                state.budgets_left -= 1;
                state.set_cap(self.budgets[at]);
            }
            other => self.step(&mut state, other),
        }
        let state = state.canonical();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        super::properties::all()
    }
}

impl Protocol {
    fn thread_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let may_fail = state.failures_left > 0;
        let (go, fail, busy) = (
            Action::Go(number),
            Action::Fail(number),
            Action::Busy(number),
        );
        match state.threads[number].step {
            Step::Idle if state.fatal => {}
            Step::Idle if number == BACKGROUND => self.background_actions(state, actions),
            Step::Idle if number == DEVICE => {
                if state.gives_left > 0 {
                    actions.extend((0..self.touched).map(Action::Give));
                }
            }
            Step::Idle => {
                if let Vcpu::Faulted(_) = state.accessors[number].vcpu {
                    actions.push(Action::ReadEvent(number, false));
                    if self.along {
                        actions.push(Action::ReadEvent(number, true));
                    }
                }
            }
            Step::Lock { page, .. } => {
                if !state.entries[page].locked || self.fault == Some(Fault::NoLock) {
                    actions.push(go);
                }
            }
            Step::GiveLock { page } => {
                if !state.entries[page].locked || self.fault == Some(Fault::GiveUnlocked) {
                    actions.push(go);
                }
            }
            Step::Room if state.available() > 0 => actions.push(go),
            Step::Room => {
                if !state.queue.is_empty() {
                    actions.push(Action::PassOn(number));
                }
                // What is staged is passed on first. How often to find pages locked or busy before the
                // fault is put aside is left to chance.
                if state.queue.iter().all(|page| state.entries[*page].locked) {
                    expel_actions(state, number, actions);
                    actions.push(Action::GiveUp(number));
                }
            }
            Step::Load(_)
            | Step::Store { .. }
            | Step::DemoteLoad { .. }
            | Step::DemoteStore { .. } => {
                actions.push(go);
                if may_fail {
                    actions.push(fail);
                }
            }
            Step::Map(_) | Step::Unmap { .. } | Step::GiveUnmap { .. } => {
                actions.push(go);
                if may_fail {
                    actions.extend([fail, busy]);
                }
            }
            _ => actions.push(go),
        }
    }

    /// What the background thread may turn to. The engine has an order and watermarks; the model allows
    /// any order, and as little free as can be.
    fn background_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.available() == 0 || state.existing() > state.cap {
            if state.staged() == 0 {
                expel_actions(state, BACKGROUND, actions);
            }
            if !state.queue.is_empty() {
                actions.push(Action::PassOn(BACKGROUND));
            }
        }
        let used = |tier: usize| state.tiers[tier].iter().flatten().count();
        if used(0) == self.tiers[0] && used(1) < self.tiers[1] {
            let above = |page: &usize| {
                let entry = state.entries[*page];
                matches!(entry.place, Place::Tier(0, _)) && !entry.locked
            };
            actions.extend((0..PAGES).filter(above).map(Action::Demote));
        }
        let waits = |page: &usize| state.waiting & 1 << page != 0;
        actions.extend((0..PAGES).filter(waits).map(Action::Retry));
    }

    fn access(&self, state: &mut State, number: usize, access: Access) {
        let Access { page, writes } = access;
        let accessor = &mut state.accessors[number];
        let again = accessor.vcpu == Vcpu::Woken(access);
        if !again {
            accessor.left -= 1;
        }
        let Some(frame) = accessor.tlb[page].or(state.guest[page]) else {
            accessor.vcpu = match self.fault {
                Some(Fault::WakeBeforeMap) if again => Vcpu::Waits(access),
                _ => Vcpu::Faulted(access),
            };
            return;
        };
        accessor.vcpu = Vcpu::Runs;
        accessor.tlb[page] = Some(frame);
        if state.memory[frame] != Some(state.written[page]) {
            state.wrong = Some(Wrong::StaleAccess);
        } else if writes {
            // Never a number that the page had before it was given back.
            state.writes[page] += 1;
            state.written[page] = state.writes[page];
            state.memory[frame] = Some(state.written[page]);
        }
    }
}

/// Any mapped page may be the policy's victim.
fn expel_actions(state: &State, number: usize, actions: &mut Vec<Action>) {
    let mapped = |page: &usize| {
        let entry = state.entries[*page];
        entry.place == Place::Mapped && !entry.locked
    };
    if state.slots.iter().any(|slot| slot.owner == Owner::Empty) {
        let pages = (0..PAGES).filter(mapped);
        actions.extend(pages.map(|page| Action::Expel(number, page)));
    }
}
