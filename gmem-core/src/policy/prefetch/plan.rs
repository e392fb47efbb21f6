//! Pages that are worth bringing in together, by clusters.

use crate::page::{CLUSTER_PAGES, ClusterNo, PageNo};

/// Pages of up to 64 clusters, at most 64 of them.
#[derive(Clone, Debug)]
pub struct Plan {
    clusters: [(ClusterNo, u64); CLUSTER_PAGES],
    len: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            clusters: [(ClusterNo(0), 0); CLUSTER_PAGES],
            len: 0,
        }
    }
}

impl Plan {
    /// Forgets all pages.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a page. Pages of one cluster are added one after another. False if there is no room for its cluster.
    pub fn add(&mut self, page: PageNo) -> bool {
        let (cluster, bit) = (ClusterNo::of(page), 1 << ClusterNo::index(page));
        match self.clusters[..self.len].last_mut() {
            Some((last, mask)) if *last == cluster => *mask |= bit,
            _ if self.len == CLUSTER_PAGES => return false,
            _ => {
                self.clusters[self.len] = (cluster, bit);
                self.len += 1;
            }
        }
        true
    }

    /// The clusters, in the order in which they were added, each with a mask of its pages.
    pub fn clusters(&self) -> &[(ClusterNo, u64)] {
        &self.clusters[..self.len]
    }

    /// The pages of `cluster`.
    pub fn of(&self, cluster: ClusterNo) -> u64 {
        let of = |(at, mask): &(ClusterNo, u64)| if *at == cluster { *mask } else { 0 };
        self.clusters()
            .iter()
            .map(of)
            .fold(0, |all, part| all | part)
    }

    /// How many pages.
    pub fn pages(&self) -> u64 {
        let masks = self.clusters().iter().map(|(_, mask)| mask.count_ones());
        masks.map(u64::from).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_cluster_share_a_mask() {
        let mut plan = Plan::default();
        for page in [62, 63, 64, 200] {
            assert!(plan.add(PageNo(page)));
        }
        let expected = [
            (ClusterNo(0), 3 << 62),
            (ClusterNo(1), 1),
            (ClusterNo(3), 1 << 8),
        ];
        assert_eq!(plan.clusters(), expected);
        assert_eq!(plan.pages(), 4);
    }

    #[test]
    fn a_plan_ends_where_its_clusters_do() {
        let mut plan = Plan::default();
        let added = (0..100).filter(|n| plan.add(PageNo(n * 64))).count();
        assert_eq!((added, plan.pages()), (64, 64));
    }
}
