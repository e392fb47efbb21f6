//! `key=value` words and their values.

use super::error::names;
use super::{Known, PlanError, Target};
use crate::pattern::Fill;
use core::ops::RangeInclusive;

/// More than any workload has.
const MAX: usize = 24;

/// The options given to one workload, each known and given once.
pub(super) struct Options<'a> {
    given: [(&'a str, &'a str); MAX],
    count: usize,
}

impl<'a> Options<'a> {
    pub(super) fn collect(
        known: Known,
        words: impl Iterator<Item = &'a str>,
    ) -> Result<Self, PlanError<'a>> {
        let mut options = Self {
            given: [("", ""); MAX],
            count: 0,
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or(PlanError::NoValue { word })?;
            if !names(&known).any(|name| name == key) {
                return Err(PlanError::UnknownOption {
                    workload: known.0,
                    key,
                });
            }
            if options.get(key).is_some() {
                return Err(PlanError::Twice { key });
            }
            // Cannot overflow: keys are distinct, and no workload knows so many.
            options.given[options.count] = (key, value);
            options.count += 1;
        }
        Ok(options)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        let given = &self.given[..self.count];
        given
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| *value)
    }

    /// The value of `key` as read by `read`, if it is given.
    fn value<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, PlanError<'a>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(PlanError::BadValue {
                key,
                value,
                expected,
            }),
        }
    }

    pub(super) fn optional(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<Option<u64>, PlanError<'a>> {
        self.value(key, expected, |text| {
            number(text).filter(|number| range.contains(number))
        })
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<u64, PlanError<'a>> {
        Ok(self.optional(key, range, expected)?.unwrap_or(default))
    }

    /// A power of two, as a size.
    pub(super) fn power(
        &self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<u64, PlanError<'a>> {
        let power = |text: &str| size(text).filter(|it| it.is_power_of_two() && range.contains(it));
        Ok(self.value(key, expected, power)?.unwrap_or(default))
    }

    /// `on` or `off`, which is the default.
    pub(super) fn truth(&self, key: &'static str) -> Result<bool, PlanError<'a>> {
        let read = |text: &str| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        Ok(self.value(key, "on or off", read)?.unwrap_or(false))
    }

    pub(super) fn address(&self, key: &'static str) -> Result<Option<u64>, PlanError<'a>> {
        let canonical = 0..=(1 << 47) - 8;
        self.optional(key, canonical, "an address such as 0x80000000, below 2^47")
    }

    pub(super) fn size(&self, key: &'static str) -> Result<Option<u64>, PlanError<'a>> {
        self.value(key, "a size above 0 such as 64K, 512M or 4G", size)
    }

    pub(super) fn theta(&self, default: f64) -> Result<f64, PlanError<'a>> {
        let read = |text: &str| {
            text.parse()
                .ok()
                .filter(|theta| (0.01..=4.0).contains(theta))
        };
        Ok(self
            .value("theta", "a number from 0.01 to 4", read)?
            .unwrap_or(default))
    }

    pub(super) fn target(&self) -> Result<Target, PlanError<'a>> {
        let expected = "rng, blk, net, vsock, console, balloon, mem, xpu, gmem or all";
        let target = self.value("device", expected, Target::named)?;
        Ok(target.unwrap_or(Target::All))
    }

    pub(super) fn fill(&self) -> Result<Fill, PlanError<'a>> {
        let read = |text: &str| match text {
            "mixed" => Some(Fill::Mixed),
            "random" => Some(Fill::Random),
            "compressible" => Some(Fill::Compressible),
            "zero" => Some(Fill::Zero),
            _ => None,
        };
        let fill = self.value("fill", "mixed, random, compressible or zero", read)?;
        Ok(fill.unwrap_or(Fill::Mixed))
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0).then_some(bytes)
}
