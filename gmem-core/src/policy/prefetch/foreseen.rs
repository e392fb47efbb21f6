//! Streams first, and trees for what belongs to none.

use super::{Plan, Prefetch, Streams, Tree, Window};
use crate::page::PageNo;

/// What is to be foreseen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefetching {
    /// Nothing: pages come alone.
    Off,
    /// Streams of touches at even distances.
    Streams,
    /// Streams, and areas that are visited densely.
    #[default]
    All,
}

/// What one accessor's touches foretell.
#[derive(Debug, Default)]
pub struct Foreseen {
    what: Prefetching,
    streams: Streams,
    tree: Tree,
    /// The latest plan is the tree's.
    by_tree: bool,
}

impl Foreseen {
    /// Foresees that much.
    pub fn new(what: Prefetching) -> Self {
        Self {
            what,
            ..Self::default()
        }
    }
}

impl Foreseen {
    /// See [`Streams::ahead`].
    pub fn ahead(&mut self, plan: &mut Plan) -> Option<Window> {
        self.streams.ahead(plan)
    }

    /// See [`Streams::foretell`].
    pub fn foretell(&mut self, window: Window, plan: &mut Plan) -> bool {
        self.streams.foretell(window, plan)
    }

    /// See [`Streams::brought_ahead`].
    pub fn brought_ahead(&mut self, window: Window, pages: u64) {
        self.streams.brought_ahead(window, pages);
        self.tree.brought(pages);
    }
}

impl Prefetch for Foreseen {
    fn room(&mut self, pages: u64) {
        self.tree.room(pages);
    }

    fn plan(&mut self, touched: PageNo, plan: &mut Plan) {
        if self.what == Prefetching::Off {
            return;
        }
        self.streams.plan(touched, plan);
        self.by_tree = self.what == Prefetching::All && plan.pages() <= 1;
        if self.by_tree {
            plan.clear();
            self.tree.plan(touched, plan);
        }
    }

    fn brought(&mut self, pages: u64) {
        if !self.by_tree {
            self.streams.brought(pages);
        }
        self.tree.brought(pages);
    }

    fn take_used(&mut self) -> u64 {
        self.streams.take_used()
    }
}
