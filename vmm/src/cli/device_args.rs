//! `--disk`, `--net`, `--vsock` and the other options that give a microVM devices.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::size;
use crate::devices::{ConsoleKind, DeviceConfig, Disk, Limit, NetInterface, Rate, Vsock};

/// The first context id that a guest can have: those below are the host's.
const FIRST_CID: u32 = 3;

/// Options for devices of a kernel of the user's.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices (with --kernel)")]
pub struct DeviceArgs {
    /// A disk: a raw file or block device; ro: read-only. Rates are per second
    #[arg(long = "disk", value_name = "FILE[,ro][,bandwidth=SIZE][,ops=N]", value_parser = disk, requires = "kernel")]
    disks: Vec<Disk>,

    /// A network interface, on a tap interface of the host
    #[arg(long = "net", value_name = "tap=NAME[,bandwidth=SIZE][,ops=N]", value_parser = net, requires = "kernel")]
    nets: Vec<NetInterface>,

    /// A socket between guest and host; what the host connects to is the Unix socket PATH, what the guest connects
    /// to at port P is PATH_P
    #[arg(long, value_name = "cid=N,uds=PATH", value_parser = vsock, requires = "kernel")]
    vsock: Option<Vsock>,

    /// A source of random numbers
    #[arg(long, requires = "kernel")]
    rng: bool,

    /// A balloon, with reporting of free pages, which go back to the pool; its target is set by `gmem ctl balloon`
    #[arg(long, requires = "kernel")]
    balloon: bool,

    /// Memory that can be plugged while the guest runs, by `gmem ctl plug`: at most so much
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "kernel")]
    hotplug: Option<u64>,

    /// What stdin and stdout are: the serial port, or a virtio console (hvc0), which is faster
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value = "serial",
        requires = "kernel"
    )]
    console: Console,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Console {
    Serial,
    Virtio,
}

impl DeviceArgs {
    /// The command line of a kernel whose user gave none.
    pub(super) fn command_line(&self) -> &'static str {
        match self.console {
            Console::Serial => "console=ttyS0 reboot=k panic=-1",
            Console::Virtio => "console=hvc0 reboot=k panic=-1",
        }
    }

    /// What is to be made.
    pub(super) fn config(self) -> DeviceConfig {
        DeviceConfig {
            disks: self.disks,
            nets: self.nets,
            vsock: self.vsock,
            rng: self.rng,
            balloon: self.balloon,
            hotplug: self.hotplug,
            console: match self.console {
                Console::Serial => ConsoleKind::Serial,
                Console::Virtio => ConsoleKind::Virtio,
            },
            accelerators: Vec::new(),
            donate: false,
        }
    }
}

/// What is wrong with one of the options.
#[derive(Debug, thiserror::Error)]
enum DeviceArgError {
    /// A word that means nothing there.
    #[error("'{found}' is not known here; expected {expected}")]
    Unknown {
        found: String,
        expected: &'static str,
    },
    /// A word is missing.
    #[error("{0} is missing; give {1}")]
    Missing(&'static str, &'static str),
    /// No number, or one that does not do.
    #[error("{key}={found} is not {expected}")]
    Number {
        key: &'static str,
        found: String,
        expected: &'static str,
    },
    /// No size.
    #[error("{0}")]
    Size(#[from] size::SizeError),
}

const DISK: &str = "FILE[,ro][,bandwidth=SIZE][,ops=N], as in root.ext4,ro";
const NET: &str = "tap=NAME[,bandwidth=SIZE][,ops=N], as in tap=tap0";
const VSOCK: &str = "cid=N,uds=PATH, as in cid=3,uds=/tmp/vm.vsock";

fn disk(text: &str) -> Result<Disk, DeviceArgError> {
    let mut words = text.split(',');
    let mut disk = Disk {
        path: words.next().unwrap_or_default().into(),
        read_only: false,
        rate: None,
    };
    if disk.path.as_os_str().is_empty() {
        return Err(DeviceArgError::Missing("the file", DISK));
    }
    for word in words {
        match word {
            "ro" => disk.read_only = true,
            word if limit(&mut disk.rate, word)? => {}
            word => return Err(unknown(word, DISK)),
        }
    }
    Ok(disk)
}

fn net(text: &str) -> Result<NetInterface, DeviceArgError> {
    let (mut tap, mut rate) = (None, None);
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("tap", name)) if !name.is_empty() => tap = Some(name.to_owned()),
            _ if limit(&mut rate, word)? => {}
            _ => return Err(unknown(word, NET)),
        }
    }
    let tap = tap.ok_or(DeviceArgError::Missing("tap=NAME", NET))?;
    Ok(NetInterface { tap, rate })
}

fn vsock(text: &str) -> Result<Vsock, DeviceArgError> {
    let (mut cid, mut path) = (None, None);
    for word in text.split(',') {
        match word.split_once('=') {
            Some(("cid", number)) => cid = Some(context(number)?),
            Some(("uds", name)) if !name.is_empty() => path = Some(PathBuf::from(name)),
            _ => return Err(unknown(word, VSOCK)),
        }
    }
    Ok(Vsock {
        cid: cid.ok_or(DeviceArgError::Missing("cid=N", VSOCK))?,
        path: path.ok_or(DeviceArgError::Missing("uds=PATH", VSOCK))?,
    })
}

fn context(text: &str) -> Result<u32, DeviceArgError> {
    // The last one means "any".
    let valid = text
        .parse()
        .ok()
        .filter(|cid| (FIRST_CID..u32::MAX).contains(cid));
    valid.ok_or(DeviceArgError::Number {
        key: "cid",
        found: text.into(),
        expected: "a number from 3 to 4294967294",
    })
}

/// Takes `word` if it is a limit.
fn limit(rate: &mut Option<Rate>, word: &str) -> Result<bool, DeviceArgError> {
    let (key, number) = match word.split_once('=') {
        Some(("bandwidth", value)) => ("bandwidth", size::parse(value)?),
        Some(("ops", value)) => ("ops", value.parse().unwrap_or_default()),
        _ => return Ok(false),
    };
    let amount = NonZeroU64::new(number).ok_or(DeviceArgError::Number {
        key,
        found: word[key.len() + 1..].into(),
        expected: "a number of operations a second, from 1 on",
    })?;
    let rate = rate.get_or_insert_default();
    let limit = Some(Limit::per_second(amount));
    match key {
        "ops" => rate.operations = limit,
        _ => rate.bytes = limit,
    }
    Ok(true)
}

fn unknown(found: &str, expected: &'static str) -> DeviceArgError {
    DeviceArgError::Unknown {
        found: found.into(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_documented() {
        let found = disk("a.img,ro,bandwidth=10M,ops=100").unwrap();
        assert_eq!(found.path, PathBuf::from("a.img"));
        assert!(found.read_only);
        let of = |limit: Option<Limit>| limit.map(|limit| limit.per_second.get());
        let rate = found.rate.unwrap();
        assert_eq!(
            (of(rate.bytes), of(rate.operations)),
            (Some(10 << 20), Some(100))
        );
        assert!(!disk("a.img").unwrap().read_only);
        assert_eq!(net("tap=tap0").unwrap().tap, "tap0");
        assert_eq!(
            vsock("cid=3,uds=/tmp/v").unwrap(),
            Vsock {
                cid: 3,
                path: "/tmp/v".into()
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        let says = |error: DeviceArgError, words: &[&str]| {
            let text = error.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        says(disk("").unwrap_err(), &["file", "FILE[,ro]"]);
        says(disk("a,rw").unwrap_err(), &["'rw'", "FILE[,ro]"]);
        says(disk("a,ops=0").unwrap_err(), &["ops=0", "from 1"]);
        says(net("bandwidth=1M").unwrap_err(), &["tap=NAME"]);
        says(net("tap0").unwrap_err(), &["'tap0'", "tap=NAME"]);
        says(vsock("uds=/x").unwrap_err(), &["cid=N"]);
        says(vsock("cid=2,uds=/x").unwrap_err(), &["cid=2", "from 3"]);
        says(vsock("cid=3").unwrap_err(), &["uds=PATH"]);
    }
}
