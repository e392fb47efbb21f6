//! Who may do what next, and what that does.

use super::plan::{self, Fault};
use super::state::{
    Access, BACKGROUND, DEVICES, GARBAGE, Goal, Owner, PAGES, Reach, State, Step, TASKS, VCPU,
    Work, driver,
};
use stateright::{Model, Property};

/// The protocol, whole or broken, and how much everybody has to do.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub fault: Option<Fault>,
    pub vcpu: u8,
    pub devices: [u8; DEVICES],
    pub chores: u8,
    pub failures: u8,
    /// Pages that are touched.
    pub touched: usize,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The vCPU reads or writes, or faults.
    Vcpu(Access),
    /// An accelerator's unit looks a page up and begins an access, or faults.
    Enter(usize, Access),
    /// It ends it.
    Leave(usize),
    /// A task takes a page's lock for a goal.
    Lock(usize, usize, Goal),
    /// A task goes on.
    Go(usize),
    /// A task's next step fails.
    Fail(usize),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(
            self.vcpu,
            self.devices,
            self.chores,
            self.failures,
        )]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.wrong.is_some() {
            return;
        }
        let accesses =
            || (0..self.touched).flat_map(|page| [false, true].map(|write| Access { page, write }));
        match state.wants {
            None if state.left > 0 => actions.extend(accesses().map(Action::Vcpu)),
            Some(Access { page, write }) if state.tasks[VCPU].is_none() => {
                actions.push(Action::Lock(VCPU, page, Goal::Bring { write }));
            }
            _ => {}
        }
        for (at, device) in state.devices.iter().enumerate() {
            let task = driver(at);
            match (device.inside, device.wants) {
                (Some(_), _) => actions.push(Action::Leave(at)),
                (None, None) if device.left > 0 => {
                    actions.extend(accesses().map(|access| Action::Enter(at, access)));
                }
                (None, Some(Access { page, write })) if state.tasks[task].is_none() => {
                    let goals = [Goal::Migrate(at), Goal::Remote(at), Goal::Copy(at)];
                    let sensible = goals.iter().take(if write { 2 } else { 3 });
                    for goal in sensible {
                        // Who needs the frame that another page has makes room first.
                        let other = device.holder.filter(|holder| *holder != page);
                        let goal = match (*goal, other) {
                            (Goal::Remote(_), _) | (_, None) => (page, *goal),
                            (_, Some(other)) if state.pages[other].copies[at] => {
                                (other, Goal::DropCopy(at))
                            }
                            (_, Some(other)) => (other, Goal::SendAway(at)),
                        };
                        actions.push(Action::Lock(task, goal.0, goal.1));
                    }
                }
                _ => {}
            }
        }
        if state.chores > 0 && state.tasks[BACKGROUND].is_none() {
            for page in 0..self.touched {
                let goals = [Goal::Stage, Goal::PassOn, Goal::Free];
                let of_devices = (0..DEVICES)
                    .flat_map(|device| [Goal::SendAway(device), Goal::DropCopy(device)]);
                let all = goals.into_iter().chain(of_devices);
                actions.extend(all.map(|goal| Action::Lock(BACKGROUND, page, goal)));
            }
        }
        for (task, work) in state.tasks.iter().enumerate() {
            if let Some(Work { steps, .. }) = work {
                actions.push(Action::Go(task));
                if state.failures > 0 && matches!(steps[0], Step::Map(..)) {
                    actions.push(Action::Fail(task));
                }
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Vcpu(access) => state.vcpu(access),
            Action::Enter(device, access) => state.enter(device, access),
            Action::Leave(device) => state.leave(device),
            Action::Lock(task, page, goal) => {
                if state.pages[page].locked {
                    return None;
                }
                let steps = plan::steps(&state, page, goal, self.fault);
                if task == BACKGROUND {
                    // What makes no sense is not worth a state.
                    steps.as_ref()?;
                    state.chores -= 1;
                }
                match steps {
                    Some(steps) => {
                        state.pages[page].locked = true;
                        state.tasks[task] = Some(Work { page, goal, steps });
                    }
                    None => state.done(task),
                }
            }
            Action::Go(task) => {
                if !state.step(task) {
                    return None;
                }
            }
            Action::Fail(task) => state.fail(task),
        }
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing goes wrong", |_, state: &State| {
                state.wrong.is_none()
            }),
            Property::always("a page at rest has its bytes", |_, state: &State| {
                let page = |page: usize| {
                    state.pages[page].locked || state.bytes(page) == state.pages[page].written
                };
                (0..PAGES).all(page)
            }),
            Property::always("copies are what they are copies of", |_, state: &State| {
                let page = |page: usize| {
                    let of = &state.pages[page];
                    let right = |device: usize| {
                        let has = &state.devices[device];
                        has.holder == Some(page) && has.frame == of.written
                    };
                    of.locked || (0..DEVICES).all(|device| !of.copies[device] || right(device))
                };
                (0..PAGES).all(page)
            }),
            Property::always("a frame has one page", |_, state: &State| {
                let held = |device: usize| match state.devices[device].holder {
                    None => true,
                    Some(page) => {
                        let of = &state.pages[page];
                        of.locked || of.copies[device] || of.owner == Owner::Device(device)
                    }
                };
                (0..DEVICES).all(held)
            }),
            Property::sometimes("both accelerators have a copy", |_, state: &State| {
                state
                    .pages
                    .iter()
                    .any(|page| page.copies == [true; DEVICES])
            }),
            Property::sometimes("all three reach a page at once", |_, state: &State| {
                let page = |of: &super::state::Page| of.present && of.remote == [true; DEVICES];
                state.pages.iter().any(page)
            }),
            Property::sometimes("everybody is done", |_, state: &State| state.finished()),
        ]
    }
}

impl State {
    fn vcpu(&mut self, access: Access) {
        let page = &mut self.pages[access.page];
        if !page.present || (access.write && page.protected) {
            self.wants = Some(access);
            return;
        }
        self.left -= 1;
        let right = page.guest == page.written;
        if access.write {
            page.guest += 1;
            page.written += 1;
        }
        self.must(
            right,
            "a vCPU saw other bytes than the last that were written",
        );
    }

    fn enter(&mut self, at: usize, access: Access) {
        let device = &mut self.devices[at];
        let known = device.tlb[access.page];
        let found = match known.allows(access.write) {
            true => known,
            false => device.table[access.page],
        };
        if !found.allows(access.write) {
            device.wants = Some(access);
            return;
        }
        device.tlb[access.page] = found;
        device.inside = Some((access, found));
    }

    fn leave(&mut self, at: usize) {
        let Some((access, reach)) = self.devices[at].inside.take() else {
            return;
        };
        let page = &mut self.pages[access.page];
        if reach == Reach::Host && !page.present {
            // It would wait for who resolves faults, who waits for the lock that an evictor holds, who waits for it.
            self.must(false, "a unit touched a page that had left the guest");
            return;
        }
        let bytes = match reach {
            Reach::Host => &mut page.guest,
            _ => &mut self.devices[at].frame,
        };
        let right = *bytes == page.written;
        if access.write {
            *bytes = bytes.wrapping_add(1);
            page.written += 1;
        }
        self.devices[at].left -= 1;
        self.must(
            right,
            "an accelerator saw other bytes than the last that were written",
        );
    }

    /// The task's work is over; who had faulted tries again.
    fn done(&mut self, task: usize) {
        self.tasks[task] = None;
        match task {
            VCPU => self.wants = None,
            BACKGROUND => {}
            driver => self.devices[driver - 1].wants = None,
        }
    }

    /// A mapping fails: the page is unlocked where it is, its new frame free.
    fn fail(&mut self, task: usize) {
        let Some(work) = self.tasks[task].take() else {
            return;
        };
        self.failures -= 1;
        let page = work.page;
        if let Step::Map(device, reach) = work.steps[0] {
            let owns = self.pages[page].owner == Owner::Device(device);
            match reach {
                Reach::Host => self.pages[page].remote[device] = false,
                _ if owns => {}
                _ => self.free(device),
            }
        }
        let of = &mut self.pages[page];
        if of.protected && of.copies == [false; DEVICES] {
            of.protected = false;
        }
        of.locked = false;
        self.done(task);
    }

    fn free(&mut self, device: usize) {
        self.devices[device].frame = GARBAGE;
        self.devices[device].holder = None;
    }

    /// The task's next step; false if it has to wait.
    fn step(&mut self, task: usize) -> bool {
        let Some(work) = &self.tasks[task] else {
            return false;
        };
        let (at, step) = (work.page, work.steps[0]);
        let page = &mut self.pages[at];
        match step {
            Step::Unmap(device) => self.devices[device].table[at] = Reach::None,
            Step::Acknowledge(device) => {
                let device = &mut self.devices[device];
                if device.inside.is_some() {
                    return false;
                }
                device.tlb[at] = Reach::None;
            }
            Step::FreeFrame(device) => self.free(device),
            Step::TakeFrame(device) => {
                let holder = &mut self.devices[device].holder;
                if holder.is_some_and(|holder| holder != at) {
                    // Somebody else was first: begun anew.
                    page.locked = false;
                    self.done(task);
                    return true;
                }
                *holder = Some(at);
            }
            Step::LeaveGuest => {
                page.staged = std::mem::replace(&mut page.guest, GARBAGE);
                (page.present, page.protected) = (false, false);
            }
            Step::EnterGuest => {
                let bytes = self.bytes(at);
                let page = &mut self.pages[at];
                // A moved page is writable.
                (page.guest, page.present, page.protected) = (bytes, true, false);
            }
            Step::Protect => page.protected = true,
            Step::Unprotect => page.protected = false,
            Step::CopyNear(device) => self.devices[device].frame = self.bytes(at),
            Step::CopyAway(device) => page.staged = self.devices[device].frame,
            Step::CopyToTier => page.tier = page.staged,
            Step::Map(device, reach) => self.devices[device].table[at] = reach,
            Step::Commit(owner) => {
                page.owner = owner;
                if owner == Owner::Untouched {
                    page.written = 0;
                }
                let keeps = |place| owner == place;
                if !keeps(Owner::Staged) && owner != Owner::Mapped {
                    page.staged = GARBAGE;
                }
                if !keeps(Owner::Tier) {
                    page.tier = GARBAGE;
                }
            }
            Step::Copied(device, is) => page.copies[device] = is,
            Step::Remote(device, is) => page.remote[device] = is,
            Step::Unlock => {
                page.locked = false;
                self.done(task);
                return true;
            }
        }
        if let Some(work) = &mut self.tasks[task] {
            work.steps.remove(0);
        }
        true
    }
}

const _: () = assert!(TASKS == DEVICES + 2);
