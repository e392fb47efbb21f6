//! From `--tier` and `--memory` to what holds the guest's memory.

use gmem_core::bytes::Bytes;
use gmem_core::engine::ConfigError;
use gmem_core::page::Unit;
use gmem_core::policy::Prefetching;

use super::memory::MemoryArg;
use super::tier::{self, TierArg, TierError, TierKind, TierSpec, Tiers};
use crate::memory::plan::{Lower, Plan};

/// The link to the demonstration's emulated HBM, microseconds and 10^9 bytes a second: about PCIe 5.0 x16.
const DEMONSTRATION_LINK: (f64, f64) = (1.0, 64.0);

/// What the memory is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) memory: MemoryArg,
    /// The bundled guest runs in it.
    pub(super) bundled: bool,
    /// Accelerators share it.
    pub(super) shared: bool,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error(transparent)]
    Tiers(#[from] TierError),
    #[error(
        "--tier none means plain memory, which accelerators cannot share; give --tier host:SIZE, or leave --accel out"
    )]
    PlainShared,
    #[error(
        "the kernel's swap moves pages without telling accelerators, which cannot share that memory; give another tier \
         than swap, or leave --accel out"
    )]
    SwapShared,
    #[error(transparent)]
    Capacity(#[from] ConfigError),
}

/// The plan; `None` for plain memory.
///
/// Without any `--tier`, the bundled guest has a quarter of its memory in host RAM and the rest in
/// emulated HBM, which shows what gmem does; a kernel of the user's has plain memory, or, shared with accelerators, host
/// RAM for all of it.
pub(super) fn of(tiers: Vec<TierArg>, asked: Asked) -> Result<Option<Plan>, PlanError> {
    let Asked {
        memory,
        bundled,
        shared,
    } = asked;
    if tiers.is_empty() {
        return Ok(match (bundled, shared) {
            (true, _) => Some(demonstration(memory)),
            (false, true) => Some(host_only(memory)),
            (false, false) => None,
        });
    }
    match tier::combine(tiers)? {
        Tiers::Plain if shared => Err(PlanError::PlainShared),
        Tiers::Plain => Ok(None),
        Tiers::Tiered(tiers) => {
            let plan = plan(tiers, memory);
            if plan.swap().is_some() && shared {
                return Err(PlanError::SwapShared);
            }
            check_swap(&plan, memory)?;
            Ok(Some(plan))
        }
    }
}

/// What swap does not hold has no place to go: the guest is killed for lack of memory.
fn check_swap(plan: &Plan, memory: MemoryArg) -> Result<(), ConfigError> {
    match plan.swap() {
        Some(swap) if !memory.overcommit && memory.size > plan.budget.saturating_add(swap) => {
            Err(ConfigError::Capacity {
                memory: Bytes(memory.size),
                capacity: Bytes(plan.budget + swap),
                host: Bytes(plan.budget),
                reserve: Bytes(0),
                tiers: Bytes(swap),
            })
        }
        _ => Ok(()),
    }
}

fn host_only(memory: MemoryArg) -> Plan {
    Plan {
        budget: memory.size,
        unit: Unit::Page,
        lower: Vec::new(),
        overcommit: memory.overcommit,
        huge: false,
        prefetch: Prefetching::All,
    }
}

fn demonstration(memory: MemoryArg) -> Plan {
    const LEAST: u64 = 4 << 20;
    let quarter = (memory.size / 4).next_multiple_of(4096).max(LEAST);
    Plan {
        budget: quarter,
        unit: Unit::Page,
        lower: vec![Lower::Hbm {
            bytes: memory.size,
            latency_us: DEMONSTRATION_LINK.0,
            gbps: Some(DEMONSTRATION_LINK.1),
        }],
        overcommit: memory.overcommit,
        huge: false,
        prefetch: Prefetching::All,
    }
}

fn plan(tiers: Vec<TierSpec>, memory: MemoryArg) -> Plan {
    let mut plan = Plan {
        budget: 0,
        unit: Unit::Page,
        lower: Vec::new(),
        overcommit: memory.overcommit,
        huge: false,
        prefetch: Prefetching::All,
    };
    for TierSpec { size, kind } in tiers {
        match kind {
            TierKind::Host { unit, prefetch } => {
                (plan.budget, plan.unit, plan.prefetch) = (size, unit, prefetch);
            }
            TierKind::Hbm { latency_us, gbps } => plan.lower.push(Lower::Hbm {
                bytes: size,
                latency_us: f64::from(latency_us),
                gbps,
            }),
            TierKind::Swap => plan.lower.push(Lower::Swap { bytes: size }),
            TierKind::Zip => plan.lower.push(Lower::Zip { bytes: size }),
            TierKind::File { path } => plan.lower.push(Lower::File { bytes: size, path }),
            TierKind::Remote(spec) => plan.lower.push(Lower::Remote { bytes: size, spec }),
        }
    }
    plan
}
