//! `--accel KIND[,hbm=SIZE][,key=value...]`.

use gmem_core::accel::Placement;
use gmem_wire::xpu::STREAMS;

use super::keys::{self, KeyError};
use crate::accelerators::{AccelConfig, Arch};

/// The kinds that there are.
const KINDS: &str = "npu, gpu";
/// The keys that an accelerator has.
const KEYS: &str = "its keys are hbm, latency_us, gbps, remote_latency_us, hbm_latency_us, hbm_gbps, faults, streams \
    and place";
/// What an accelerator has if nobody says otherwise.
const HBM: u64 = 256 << 20;
const DEFAULT_STREAMS: usize = 4;

/// What is wrong with an `--accel`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AccelError {
    /// A kind that nobody knows.
    #[error("unknown accelerator '{0}'; this version has {KINDS}")]
    UnknownKind(String),
    /// A key or its value.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Reads one `--accel`.
pub fn parse(text: &str) -> Result<AccelConfig, AccelError> {
    let mut words = text.split(',');
    let kind = words.next().unwrap_or_default();
    let arch = Arch::ALL
        .into_iter()
        .find(|arch| arch.name() == kind)
        .ok_or_else(|| AccelError::UnknownKind(kind.into()))?;
    let mut config = AccelConfig {
        arch,
        hbm: HBM,
        latency_us: 0.0,
        gbps: None,
        remote_latency_us: 0.0,
        hbm_latency_us: 0.0,
        hbm_gbps: None,
        faults: true,
        streams: DEFAULT_STREAMS,
        placement: Placement::Adaptive,
    };
    for (key, value) in keys::read(words)? {
        match key {
            "hbm" => config.hbm = keys::size(value)?,
            "latency_us" => config.latency_us = keys::latency("latency_us", value)?.into(),
            "gbps" => config.gbps = Some(keys::rate("gbps", value)?),
            "remote_latency_us" => {
                config.remote_latency_us = keys::latency("remote_latency_us", value)?.into();
            }
            "hbm_latency_us" => {
                config.hbm_latency_us = keys::latency("hbm_latency_us", value)?.into();
            }
            "hbm_gbps" => config.hbm_gbps = Some(keys::rate("hbm_gbps", value)?),
            "faults" => config.faults = faults(value)?,
            "streams" => config.streams = streams(value)?,
            "place" => config.placement = placement(value)?,
            _ => {
                return Err(keys::unknown("an accelerator", key, KEYS).into());
            }
        }
    }
    Ok(config)
}

fn placement(value: &str) -> Result<Placement, KeyError> {
    Ok(match value {
        "adaptive" => Placement::Adaptive,
        "first-touch" => Placement::FirstTouch,
        "remote" => Placement::Remote,
        _ => {
            let expected = "adaptive, first-touch or remote";
            return Err(keys::bad_value("place", value, expected));
        }
    })
}

fn faults(value: &str) -> Result<bool, KeyError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(keys::bad_value("faults", value, "on or off")),
    }
}

fn streams(value: &str) -> Result<usize, KeyError> {
    let streams = value
        .parse()
        .ok()
        .filter(|streams| (1..=STREAMS).contains(streams));
    streams.ok_or_else(|| keys::bad_value("streams", value, "a number of streams, 1 to 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerator_is_read_with_its_keys() {
        let config = parse("gpu,hbm=128M,gbps=8,latency_us=2,streams=1").unwrap();
        assert_eq!(config.arch, Arch::Gpu);
        assert_eq!((config.hbm, config.streams), (128 << 20, 1));
        assert_eq!((config.gbps, config.latency_us), (Some(8.0), 2.0));
        let text = "npu,hbm_gbps=800,hbm_latency_us=1,remote_latency_us=3,faults=off";
        let slow = parse(text).unwrap();
        assert_eq!(
            (
                slow.hbm_gbps,
                slow.hbm_latency_us,
                slow.remote_latency_us,
                slow.faults
            ),
            (Some(800.0), 1.0, 3.0, false)
        );
        let npu = parse("npu,place=first-touch").unwrap();
        assert_eq!((npu.hbm, npu.placement), (HBM, Placement::FirstTouch));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_there_is() {
        let says = |text: &str, word: &str| {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        };
        says("tpu,hbm=1G", "npu, gpu");
        says("", "npu, gpu");
        says("npu,hbm", "key=value");
        says("npu,hbm=1G,hbm=2G", "twice");
        says("npu,hbm=0", "zero");
        says("npu,size=1G", "its keys are");
        says("npu,gbps=0", "positive");
        says("npu,place=here", "first-touch");
        says("npu,faults=no", "on or off");
        says("npu,hbm_gbps=-1", "hbm_gbps=-1");
        for streams in ["0", "9", "many"] {
            says(&format!("npu,streams={streams}"), "1 to 8");
        }
    }
}
