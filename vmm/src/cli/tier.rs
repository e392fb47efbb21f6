//! `--tier KIND:SIZE[,key=value...]`, nearest first, or `--tier none`.

use std::path::PathBuf;

use gmem_core::bytes::Bytes;
use gmem_core::page::{BLOCK_SIZE, Unit};
use gmem_core::policy::Prefetching;

use super::keys::{self, Key, KeyError, bad_value, unknown};
use crate::memory::plan::RemoteSpec;

/// The kinds that this version has.
const KINDS: &str = "host, hbm, zip, file, remote, swap";
/// Kinds that later versions will have.
const LATER: [&str; 2] = ["mapped", "cuda"];

/// One `--tier`.
#[derive(Clone, Debug, PartialEq)]
pub enum TierArg {
    /// `none`: plain memory, nothing beneath the guest.
    Plain,
    /// A tier.
    Tier(TierSpec),
}

/// A tier to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct TierSpec {
    /// What it can hold, bytes.
    pub size: u64,
    /// What it is made of.
    pub kind: TierKind,
}

/// What a tier is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum TierKind {
    /// Host RAM, where the guest can use it.
    Host {
        /// What moves at once.
        unit: Unit,
        /// What comes along with a touched page.
        prefetch: Prefetching,
    },
    /// Emulated accelerator memory.
    Hbm {
        /// Added to each transfer, microseconds.
        latency_us: u32,
        /// Transfer rate, 10^9 bytes a second; unlimited if not given.
        gbps: Option<f64>,
    },
    /// Compressed memory.
    Zip,
    /// The kernel's swap.
    Swap,
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// Somebody else's memory.
    Remote(RemoteSpec),
}

impl TierKind {
    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host { .. } => "host",
            Self::Hbm { .. } => "hbm",
            Self::Zip => "zip",
            Self::Swap => "swap",
            Self::File { .. } => "file",
            Self::Remote(_) => "remote",
        }
    }
}

/// The memory beneath a guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Tiers {
    /// Plain memory.
    Plain,
    /// Tiers, nearest first; the first is the one `host`.
    Tiered(Vec<TierSpec>),
}

/// What is wrong with a `--tier`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TierError {
    /// No size.
    #[error("'{0}' has no size; give KIND:SIZE[,key=value...], like host:128M")]
    NoSize(String),
    /// A kind that nobody knows.
    #[error("unknown tier kind '{0}'; this version has {KINDS}")]
    UnknownKind(String),
    /// A kind that is not there yet.
    #[error("tier kind '{0}' is not available yet in this version; it has {KINDS}")]
    NotYet(String),
    /// The size, a key or its value.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What holds a remote tier's pages.
    #[error(transparent)]
    Remote(#[from] remote::RemoteError),
    /// A file without a name.
    #[error("a file tier needs a path; give file:SIZE,path=FILE")]
    NoPath,
    /// Blocks that do not fill the tier.
    #[error(
        "a host tier of {0} with unit=2M is not a whole number of 2M blocks; give a multiple of 2M"
    )]
    NotBlocks(Bytes),
    /// `none` and something else.
    #[error(
        "--tier none means plain memory and cannot be combined with other tiers; give one or the other"
    )]
    NoneCombined,
    /// Another first tier.
    #[error(
        "the first tier is {0}, but a guest can only use host memory directly; give --tier host:SIZE first"
    )]
    FirstNotHost(&'static str),
    /// Two of them.
    #[error("there is more than one host tier; give one, with the sizes added up")]
    SecondHost,
    /// Swap and something else.
    #[error(
        "a swap tier is the kernel's, which does not share guest memory with other tiers; give --tier host:SIZE \
         --tier swap:SIZE and no other"
    )]
    SwapCombined,
    /// Swap and blocks.
    #[error(
        "the kernel swaps pages of 4K, not blocks; leave unit=2M out, or give another tier than swap"
    )]
    SwapBlocks,
    /// Two tiers in one file.
    #[error("two tiers use the file {}; give each its own", .0.display())]
    SameFile(PathBuf),
}

/// Reads one `--tier`.
pub fn parse(text: &str) -> Result<TierArg, TierError> {
    if text == "none" {
        return Ok(TierArg::Plain);
    }
    let mut parts = text.split(',');
    let head = parts.next().unwrap_or_default();
    let (kind, size_text) = match head.split_once(':') {
        Some(split) => split,
        None => (head, ""),
    };
    if LATER.contains(&kind) {
        return Err(TierError::NotYet(kind.into()));
    }
    if !["host", "hbm", "zip", "file", "remote", "swap"].contains(&kind) {
        return Err(TierError::UnknownKind(kind.into()));
    }
    if size_text.is_empty() {
        return Err(TierError::NoSize(text.into()));
    }
    let size = keys::size(size_text)?;
    if kind == "remote" {
        let kind = TierKind::Remote(remote::parse(parts)?);
        return Ok(TierArg::Tier(TierSpec { size, kind }));
    }
    let keys = keys::read(parts)?;
    let kind = match kind {
        "host" => host(size, &keys)?,
        "hbm" => hbm(&keys)?,
        "zip" => none("a zip tier", TierKind::Zip, &keys)?,
        "swap" => none("a swap tier", TierKind::Swap, &keys)?,
        _ => file(&keys)?,
    };
    Ok(TierArg::Tier(TierSpec { size, kind }))
}

/// Puts the options together, in their order.
pub fn combine(args: Vec<TierArg>) -> Result<Tiers, TierError> {
    if args.contains(&TierArg::Plain) {
        return match args.len() {
            1 => Ok(Tiers::Plain),
            _ => Err(TierError::NoneCombined),
        };
    }
    let specs: Vec<TierSpec> = args
        .into_iter()
        .filter_map(|arg| match arg {
            TierArg::Plain => None,
            TierArg::Tier(spec) => Some(spec),
        })
        .collect();
    let mut files = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        match (&spec.kind, index) {
            (TierKind::Host { .. }, 0) => {}
            (TierKind::Host { .. }, _) => return Err(TierError::SecondHost),
            (kind, 0) => return Err(TierError::FirstNotHost(kind.name())),
            (TierKind::File { path }, _) if files.contains(&path) => {
                return Err(TierError::SameFile(path.clone()));
            }
            (TierKind::File { path }, _) => files.push(path),
            _ => {}
        }
    }
    if specs.iter().any(|spec| spec.kind == TierKind::Swap) {
        match specs[..] {
            [
                TierSpec {
                    kind:
                        TierKind::Host {
                            unit: Unit::Page, ..
                        },
                    ..
                },
                _,
            ] => {}
            [_, _] => return Err(TierError::SwapBlocks),
            _ => return Err(TierError::SwapCombined),
        }
    }
    Ok(Tiers::Tiered(specs))
}

fn host(size: u64, keys: &[Key<'_>]) -> Result<TierKind, TierError> {
    let (mut unit, mut prefetch) = (Unit::Page, Prefetching::All);
    for &(key, value) in keys {
        match (key, value) {
            ("unit", "4K") => unit = Unit::Page,
            ("unit", "2M") => unit = Unit::Block,
            ("unit", _) => return Err(bad_value("unit", value, "unit=4K or unit=2M").into()),
            ("prefetch", "off") => prefetch = Prefetching::Off,
            ("prefetch", "streams") => prefetch = Prefetching::Streams,
            ("prefetch", "all") => prefetch = Prefetching::All,
            ("prefetch", _) => {
                return Err(bad_value("prefetch", value, "off, streams or all").into());
            }
            _ => return Err(unknown("a host tier", key, "its keys are unit and prefetch").into()),
        }
    }
    if unit == Unit::Block && !size.is_multiple_of(BLOCK_SIZE as u64) {
        return Err(TierError::NotBlocks(Bytes(size)));
    }
    Ok(TierKind::Host { unit, prefetch })
}

fn hbm(keys: &[Key<'_>]) -> Result<TierKind, TierError> {
    let mut latency_us = 0;
    let mut gbps = None;
    for &(key, value) in keys {
        match key {
            "latency_us" => latency_us = keys::latency("latency_us", value)?,
            "gbps" => gbps = Some(keys::rate("gbps", value)?),
            _ => return Err(unknown("a hbm tier", key, "its keys are latency_us and gbps").into()),
        }
    }
    Ok(TierKind::Hbm { latency_us, gbps })
}

/// A kind without keys.
fn none(of: &'static str, kind: TierKind, keys: &[Key<'_>]) -> Result<TierKind, TierError> {
    match keys.first() {
        None => Ok(kind),
        Some((key, _)) => Err(unknown(of, key, "it has none").into()),
    }
}

fn file(keys: &[Key<'_>]) -> Result<TierKind, TierError> {
    let mut path = None;
    for &(key, value) in keys {
        match key {
            "path" => path = Some(value).filter(|value| !value.is_empty()),
            _ => return Err(unknown("a file tier", key, "its one key is path").into()),
        }
    }
    let path = path.ok_or(TierError::NoPath)?.into();
    Ok(TierKind::File { path })
}

mod remote;

#[cfg(test)]
#[path = "tier_tests.rs"]
mod tests;
