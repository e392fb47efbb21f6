//! What who holds a page's lock does for a goal, step by step.
//!
//! The page stays locked until the last step, so that what its entry says now is so until these steps change it.

use super::state::{Goal, Owner, Reach, State, Step};

/// What is left out, or done in another order, in a broken protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody waits until an accelerator has acknowledged.
    NoAcknowledgement,
    /// A page leaves the guest before accelerators that reach it there have let go.
    LeaveFirst,
    /// A page is copied, then protected.
    CopyFirst,
    /// An accelerator's write leaves the other's copy.
    KeepCopy,
    /// A vCPU's write leaves copies.
    WriteBesideCopies,
    /// A page that comes beneath the guest leaves copies.
    BringBesideCopies,
    /// A copy is taken while an accelerator may write the page beneath the guest.
    CopyBesideRemote,
    /// A mapping that fails has changed the entry already.
    CommitFirst,
    /// What was mapped for an accelerator before is not withdrawn from it.
    NoWithdrawal,
    /// A page given back leaves what accelerators have of it.
    FreeBeside,
}

/// Steps, with what a broken protocol leaves out.
struct Steps {
    fault: Option<Fault>,
    steps: Vec<Step>,
}

impl Steps {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// An accelerator lets go of the page.
    fn withdraw(&mut self, device: usize) {
        if self.has(Fault::NoWithdrawal) {
            return;
        }
        self.push(Step::Unmap(device));
        if !self.has(Fault::NoAcknowledgement) {
            self.push(Step::Acknowledge(device));
        }
    }

    fn drop_copy(&mut self, device: usize) {
        self.withdraw(device);
        self.push(Step::Copied(device, false));
        self.push(Step::FreeFrame(device));
    }

    fn drop_remote(&mut self, device: usize) {
        self.withdraw(device);
        self.push(Step::Remote(device, false));
    }
}

/// The steps for `goal`; `None` if it makes no sense any more, and the page is unlocked at once.
pub fn steps(state: &State, page: usize, goal: Goal, fault: Option<Fault>) -> Option<Vec<Step>> {
    let of = &state.pages[page];
    let mut plan = Steps {
        fault,
        steps: Vec::new(),
    };
    let copies = |device: &usize| of.copies[*device];
    let remote = |device: &usize| of.remote[*device];
    let devices = || 0..state.devices.len();
    match goal {
        Goal::Bring { write } => match of.owner {
            Owner::Mapped if of.protected && write => {
                if !plan.has(Fault::WriteBesideCopies) {
                    devices()
                        .filter(copies)
                        .for_each(|device| plan.drop_copy(device));
                }
                plan.push(Step::Unprotect);
            }
            Owner::Mapped => {}
            owner => {
                if !plan.has(Fault::BringBesideCopies) {
                    devices()
                        .filter(copies)
                        .for_each(|device| plan.drop_copy(device));
                }
                enter(&mut plan, owner);
            }
        },
        Goal::Migrate(to) => {
            if of.owner == Owner::Device(to) {
                // Somebody else has brought it.
                return None;
            }
            plan.push(Step::TakeFrame(to));
            let others = devices().filter(|device| *device != to);
            if !plan.has(Fault::KeepCopy) {
                others
                    .filter(copies)
                    .for_each(|device| plan.drop_copy(device));
            }
            let had = of.copies[to];
            if had {
                plan.withdraw(to);
                plan.push(Step::Copied(to, false));
            }
            if of.owner == Owner::Mapped {
                leave(&mut plan, devices().filter(remote));
            }
            if let Owner::Device(from) = of.owner {
                plan.withdraw(from);
            }
            // A copy has the bytes already.
            if !had {
                plan.push(Step::CopyNear(to));
            }
            let map = Step::Map(to, Reach::Local { write: true });
            let commit = Step::Commit(Owner::Device(to));
            match plan.has(Fault::CommitFirst) {
                true => plan.steps.extend([commit, map]),
                false => plan.steps.extend([map, commit]),
            }
            if let Owner::Device(from) = of.owner {
                plan.push(Step::FreeFrame(from));
            }
        }
        Goal::Copy(to) => {
            if matches!(of.owner, Owner::Device(_) | Owner::Untouched) || of.copies[to] {
                return None;
            }
            plan.push(Step::TakeFrame(to));
            if of.owner == Owner::Mapped {
                if !plan.has(Fault::CopyBesideRemote) {
                    devices()
                        .filter(remote)
                        .for_each(|device| plan.drop_remote(device));
                }
                match plan.has(Fault::CopyFirst) {
                    true => plan.steps.extend([Step::CopyNear(to), Step::Protect]),
                    false => plan.steps.extend([Step::Protect, Step::CopyNear(to)]),
                }
            } else {
                plan.push(Step::CopyNear(to));
            }
            plan.push(Step::Map(to, Reach::Local { write: false }));
            plan.push(Step::Copied(to, true));
        }
        Goal::Remote(to) => {
            devices()
                .filter(copies)
                .for_each(|device| plan.drop_copy(device));
            match of.owner {
                Owner::Mapped if of.protected => plan.push(Step::Unprotect),
                Owner::Mapped => {}
                owner => enter(&mut plan, owner),
            }
            plan.push(Step::Remote(to, true));
            plan.push(Step::Map(to, Reach::Host));
        }
        Goal::Stage => {
            if of.owner != Owner::Mapped {
                return None;
            }
            // Copies stay: nobody can write what is staged.
            leave(&mut plan, devices().filter(remote));
        }
        Goal::PassOn => {
            if of.owner != Owner::Staged {
                return None;
            }
            // Copies stay: the bytes are the same.
            plan.push(Step::CopyToTier);
            plan.push(Step::Commit(Owner::Tier));
        }
        Goal::SendAway(from) => {
            if of.owner != Owner::Device(from) {
                return None;
            }
            plan.withdraw(from);
            plan.push(Step::CopyAway(from));
            plan.push(Step::Commit(Owner::Staged));
            plan.push(Step::FreeFrame(from));
        }
        Goal::DropCopy(device) => {
            if !of.copies[device] {
                return None;
            }
            plan.drop_copy(device);
            let others = devices().filter(copies).any(|other| other != device);
            if of.protected && !others {
                plan.push(Step::Unprotect);
            }
        }
        Goal::Free => {
            if !plan.has(Fault::FreeBeside) {
                devices()
                    .filter(copies)
                    .for_each(|device| plan.drop_copy(device));
            }
            match of.owner {
                Owner::Mapped => leave(&mut plan, devices().filter(remote)),
                Owner::Device(from) => plan.withdraw(from),
                _ => {}
            }
            plan.push(Step::Commit(Owner::Untouched));
            if let Owner::Device(from) = of.owner {
                plan.push(Step::FreeFrame(from));
            }
        }
    }
    plan.push(Step::Unlock);
    Some(plan.steps)
}

/// Beneath the guest, from `owner`.
fn enter(plan: &mut Steps, owner: Owner) {
    if let Owner::Device(from) = owner {
        plan.withdraw(from);
    }
    plan.push(Step::EnterGuest);
    plan.push(Step::Commit(Owner::Mapped));
    if let Owner::Device(from) = owner {
        plan.push(Step::FreeFrame(from));
    }
}

/// From beneath the guest into the arena; those who reach it there let go first.
fn leave(plan: &mut Steps, remote: impl Iterator<Item = usize>) {
    let remote: Vec<usize> = remote.collect();
    let out = [Step::LeaveGuest, Step::Commit(Owner::Staged)];
    if plan.has(Fault::LeaveFirst) {
        plan.steps.extend(out);
        remote
            .into_iter()
            .for_each(|device| plan.drop_remote(device));
    } else {
        remote
            .into_iter()
            .for_each(|device| plan.drop_remote(device));
        plan.steps.extend(out);
    }
}
