//! Whether the table, the arena and the tiers agree.

use super::fault::bit;
use super::{Engine, Quiesced};
use crate::hnode::Kind;
use crate::page::{ClusterNo, PageRange};
use crate::table::{Place, State};
use std::collections::HashSet;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Pages beneath the guest.
    pub mapped: u64,
    /// Pages staged in the arena.
    pub staged: u64,
    /// Pages in tiers, by tier.
    pub held: Vec<u64>,
    /// Contradictions, in words. None in a sound engine.
    pub contradictions: Vec<String>,
}

impl Engine {
    /// Checks that each page has one owner and each frame one page, and that the counts agree.
    pub fn audit(&self, _still: &Quiesced<'_>) -> Audit {
        let mut audit = Audit {
            held: vec![0; usize::from(Place::MAX_HNODE)],
            ..Audit::default()
        };
        let mut owners = HashSet::new();
        for page in self.ram.iter().flat_map(PageRange::iter) {
            match self.table.peek(page).state() {
                State::Mapped => audit.mapped += 1,
                State::Held(place) => {
                    // Filled pages of a zip tier share a frame by design: length 0 in the frame's name.
                    let filled = place.hnode != Place::RAM
                        && self.tier(place.hnode).kind() == Kind::Zip
                        && place.frame.0 >> 32 == 0;
                    if !filled && !owners.insert(place) {
                        audit
                            .contradictions
                            .push(format!("{page}: {place:?} has another owner"));
                    }
                    match place.hnode {
                        Place::RAM => audit.staged += 1,
                        tier => audit.held[usize::from(tier) - 1] += 1,
                    }
                }
                State::Untouched => {}
                state => audit.contradictions.push(format!("{page}: {state:?}")),
            }
        }
        let copies = self.sharing.copies();
        for &(page, hnode, frame) in &copies {
            let mut wrong = |what: &str| {
                let what = format!("{page}: copied by hnode {hnode}, {what}");
                audit.contradictions.push(what);
            };
            if self.sharing.copied(ClusterNo::of(page)) & bit(page) == 0 {
                wrong("but not marked");
            }
            if !owners.insert(Place { hnode, frame }) {
                wrong("in a frame that has another owner");
            }
            if matches!(self.table.peek(page).state(), State::Held(place) if self.is_device(place))
            {
                wrong("but an accelerator may write to it");
            }
        }
        for (cluster, mask) in self.sharing.remote_clusters() {
            for page in cluster.pages(mask) {
                if self.table.peek(page).state() != State::Mapped {
                    let what = format!("{page}: reached beneath the guest, and is not there");
                    audit.contradictions.push(what);
                }
            }
            if mask & self.sharing.copied(cluster) != 0 {
                let what = format!("{cluster:?}: pages are copied and reached beneath the guest");
                audit.contradictions.push(what);
            }
        }
        let held = std::mem::take(&mut audit.held);
        let mut expect = |what: &str, found: u64, expected: u64| {
            if found != expected {
                audit
                    .contradictions
                    .push(format!("{what}: {found}, expected {expected}"));
            }
        };
        let frames = audit.mapped + audit.staged + self.arena.free_frames();
        expect("frames of host RAM", self.arena.existing(), frames);
        expect("staged pages", self.staged.pages(), audit.staged);
        for (tier, held) in self.tiers.iter().zip(&held) {
            expect(tier.name(), tier.usage().pages, *held);
        }
        for (hnode, device) in self.attached_devices() {
            let pages = device.usage().pages;
            let copies = copies.iter().filter(|(_, of, _)| *of == hnode).count() as u64;
            expect(device.name(), pages, held[usize::from(hnode) - 1] + copies);
        }
        audit.held = held;
        audit
            .held
            .truncate(self.tiers.len() + self.attached_devices().len());
        audit
    }
}
