//! The end of a microVM whose memory others use: they take their pages back first.

use std::time::{Duration, Instant};

use super::status::StatusLine;
use crate::pager::donate::Donation;

/// How long the guest has to end when it is told to lend no more.
const LAST: Duration = Duration::from_secs(5);

/// What is left to be done before the run may end.
pub(super) struct Farewell {
    donation: Donation,
    drain: Duration,
    stage: Stage,
}

enum Stage {
    /// Nobody has asked for the end.
    Lending,
    /// Clients have until then to take their pages back.
    Draining(Instant),
    /// The guest has until then to end.
    Ending(Instant),
}

impl Farewell {
    /// Of a guest whose clients have `drain` to take their pages back.
    pub(super) fn new(donation: Donation, drain: Duration) -> Self {
        Self {
            donation,
            drain,
            stage: Stage::Lending,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Lending)
    }

    /// Somebody wants the end: `by` says who. False if it was wanted before, and is wanted at once.
    pub(super) fn begin(&mut self, by: &str, status: &StatusLine) -> bool {
        if self.has_begun() {
            return false;
        }
        let clients = self.donation.clients();
        if clients > 0 {
            status.say(&format!(
                "{by}: {clients} client(s) have {:?} to take their pages back; again ends it at once",
                self.drain
            ));
        }
        self.donation.drain(self.drain);
        self.stage = Stage::Draining(Instant::now() + self.drain);
        true
    }

    /// Whether nobody need be waited for any more. The guest is told when its clients have gone, or their time is up.
    pub(super) fn is_over(&mut self, status: &StatusLine) -> bool {
        let now = Instant::now();
        match self.stage {
            Stage::Lending => false,
            Stage::Draining(until) => {
                let left = self.donation.clients();
                if left == 0 || now >= until {
                    status.say(&format!("the guest lends no more; {left} clients left"));
                    self.donation.end();
                    self.stage = Stage::Ending(now + LAST);
                }
                false
            }
            Stage::Ending(until) => now >= until,
        }
    }
}
