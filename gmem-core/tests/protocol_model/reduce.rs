//! Fewer states for the same behaviours.
//!
//! - States that differ only in the names of frames, or of an accessor with its handler, are one.
//! - A step that touches only what its thread alone can reach, or that lets a lock go, commutes with
//!   every step of the others (R. J. Lipton, "Reduction", 1975): it is taken at once with the step before
//!   it. Variants that break this very order are not reduced.

use super::protocol::{Fault, Protocol};
use super::state::*;

impl Protocol {
    /// Whether what the thread does next belongs to what it just did.
    pub fn runs_on(&self, state: &State, number: usize) -> bool {
        let Thread { step, bring } = state.threads[number];
        let no_choice = state.failures_left == 0;
        let in_order = matches!(
            self.fault,
            None | Some(Fault::ForgetLocked | Fault::ForgetWaiting)
        );
        in_order
            && match step {
                Step::Look { .. }
                | Step::Wake(_)
                | Step::Commit(_)
                | Step::CommitStaged { .. }
                | Step::CommitStored { .. }
                | Step::DemoteCommit { .. }
                | Step::GiveCommit { .. } => true,
                Step::Load(_)
                | Step::Unmap { .. }
                | Step::DemoteLoad { .. }
                | Step::GiveUnmap { .. } => no_choice,
                Step::Pick => bring.is_some_and(|bring| needs_no_frame(state, bring)),
                _ => false,
            }
    }
}

fn needs_no_frame(state: &State, bring: Bring) -> bool {
    let next = state.entries.get(bring.held.trailing_zeros() as usize);
    next.is_none_or(|entry| matches!(entry.place, Place::Staged(_)))
}

impl State {
    /// The same state by its canonical names.
    pub fn canonical(mut self) -> Self {
        for accessor in &mut self.accessors {
            if accessor.left == 0 && accessor.vcpu == Vcpu::Runs {
                accessor.tlb = [None; PAGES];
            }
        }
        if (self.accessors[1], self.threads[1]) < (self.accessors[0], self.threads[0]) {
            self.accessors.swap(0, 1);
            self.threads.swap(0, 1);
        }
        self.rename_frames();
        self
    }

    fn rename_frames(&mut self) {
        let in_slots = self.slots.iter().map(|slot| slot.frame);
        let mut order: Vec<usize> = in_slots.chain(self.guest).flatten().collect();
        order.extend(0..FRAMES);
        let mut names = [FRAMES; FRAMES];
        let mut next = 0;
        for frame in order {
            if names[frame] == FRAMES {
                names[frame] = next;
                next += 1;
            }
        }
        let old = self.memory;
        for (frame, name) in names.into_iter().enumerate() {
            self.memory[name] = old[frame];
        }
        let slots = self.slots.iter_mut().map(|slot| &mut slot.frame);
        let cached = self
            .accessors
            .iter_mut()
            .flat_map(|accessor| &mut accessor.tlb);
        for frame in slots.chain(&mut self.guest).chain(cached).flatten() {
            *frame = names[*frame];
        }
    }
}
