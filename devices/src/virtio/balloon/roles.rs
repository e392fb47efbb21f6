//! Which queue has which role.

use serde::{Deserialize, Serialize};

use super::feature;

/// As many queues as there are roles.
pub(super) const QUEUES: usize = 5;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Statistics,
    Hinting,
    Reporting,
}

/// The roles of the queues, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roles([Option<Role>; QUEUES]);

impl Roles {
    /// The roles after `features` were agreed, when the driver uses the queues that `uses` says.
    ///
    /// The specification gives each role a number. Drivers leave no gap: where they want no statistics, reporting is
    /// queue 3, not 4. Which of both a driver does shows in the queues that it uses.
    pub(super) fn new(features: u64, uses: impl Fn(usize) -> bool) -> Self {
        let optional = [
            (Role::Statistics, feature::STATISTICS),
            (Role::Hinting, feature::HINTING),
            (Role::Reporting, feature::REPORTING),
        ];
        let mut numbered = [Some(Role::Inflate), Some(Role::Deflate), None, None, None];
        let mut packed = numbered;
        let mut last = 1;
        for (index, (role, feature)) in optional.into_iter().enumerate() {
            if features & feature != 0 {
                numbered[2 + index] = Some(role);
                last += 1;
                packed[last] = Some(role);
            }
        }
        let all_used = numbered
            .iter()
            .enumerate()
            .all(|(queue, role)| role.is_none() || uses(queue));
        Self(if all_used { numbered } else { packed })
    }

    /// The role of queue `queue`.
    pub(super) fn of(&self, queue: usize) -> Option<Role> {
        *self.0.get(queue)?
    }

    /// The queue with `role`.
    pub(super) fn queue(&self, role: Role) -> Option<usize> {
        self.0.iter().position(|its| *its == Some(role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_leaves_no_gap_reports_on_the_first_free_number() {
        let roles = Roles::new(feature::REPORTING, |queue| queue < 3);
        assert_eq!(roles.of(2), Some(Role::Reporting));
        assert_eq!(roles.of(4), None);
    }

    #[test]
    fn a_driver_that_counts_by_the_book_reports_on_queue_4() {
        let roles = Roles::new(feature::REPORTING, |queue| [0, 1, 4].contains(&queue));
        assert_eq!(roles.queue(Role::Reporting), Some(4));
        assert_eq!(roles.of(2), None);
    }

    #[test]
    fn with_everything_agreed_both_are_the_same() {
        let all = feature::REPORTING | feature::STATISTICS | feature::HINTING;
        assert_eq!(Roles::new(all, |_| true), Roles::new(all, |_| false));
    }
}
