//! Traces of touches, each of a kind, a seed and the memory that it is to strain.

mod kinds;

use super::Random;

/// What a trace is generated for.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Pages that it may touch.
    pub pages: u32,
    /// Pages that memory has room for: what is to be a little larger is larger than this.
    pub capacity: u32,
    /// How many touches.
    pub touches: usize,
    /// Another seed, another trace of the kind.
    pub seed: u64,
}

/// A kind of trace.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// Kept apart while the policy was designed: nothing was chosen by what it does on these.
    pub held_out: bool,
    generate: fn(&Shape, &mut Random) -> Vec<u32>,
}

impl Kind {
    /// The trace of this kind.
    pub fn generate(&self, shape: &Shape) -> Vec<u32> {
        let mut random = Random::new(shape.seed);
        let mut trace = (self.generate)(shape, &mut random);
        trace.truncate(shape.touches);
        trace
    }
}

/// All kinds.
pub const KINDS: &[Kind] = {
    const fn kind(name: &'static str, generate: fn(&Shape, &mut Random) -> Vec<u32>) -> Kind {
        Kind {
            name,
            held_out: false,
            generate,
        }
    }
    const fn held_out(name: &'static str, generate: fn(&Shape, &mut Random) -> Vec<u32>) -> Kind {
        Kind {
            name,
            held_out: true,
            generate,
        }
    }
    &[
        kind("uniform", kinds::uniform),
        kind("zipf-0.8", |shape, random| kinds::zipf(shape, random, 0.8)),
        kind("zipf-0.99", |shape, random| {
            kinds::zipf(shape, random, 0.99)
        }),
        kind("zipf-1.2", |shape, random| kinds::zipf(shape, random, 1.2)),
        kind("scan", kinds::scan),
        kind("loop", |shape, random| kinds::around(shape, random, 1.1)),
        kind("stride", kinds::stride),
        kind("hot-scan", kinds::hot_scan),
        kind("phases", kinds::phases),
        kind("streams", kinds::streams),
        kind("stack", |shape, random| kinds::stack(shape, random, 0.5)),
        kind("zipf-scans", kinds::zipf_scans),
        kind("bursts", kinds::bursts),
        held_out("zipf-0.9", |shape, random| kinds::zipf(shape, random, 0.9)),
        held_out("loop-1.5", |shape, random| {
            kinds::around(shape, random, 1.5)
        }),
        held_out("stack-deep", |shape, random| {
            kinds::stack(shape, random, 1.5)
        }),
        held_out("drift", kinds::drift),
        held_out("tree", kinds::tree),
        held_out("sawtooth", kinds::sawtooth),
        held_out("two-loops", kinds::two_loops),
        held_out("walk", kinds::walk),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_depends_on_its_seed_alone_and_stays_in_its_pages() {
        let shape = Shape {
            pages: 1000,
            capacity: 100,
            touches: 5000,
            seed: 7,
        };
        for kind in KINDS {
            let trace = kind.generate(&shape);
            assert_eq!(trace, kind.generate(&shape), "{}", kind.name);
            assert_eq!(trace.len(), shape.touches, "{}", kind.name);
            assert!(
                trace.iter().all(|page| *page < shape.pages),
                "{}",
                kind.name
            );
        }
    }
}
