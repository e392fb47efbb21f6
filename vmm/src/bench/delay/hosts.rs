//! Two hosts with a cable between them: network namespaces, and a pair of virtual interfaces.

use std::path::Path;
use std::process::{Command, Stdio, id};

use super::on;

/// Addresses of the two, of a network that documentation uses and nobody else.
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Why there are no two hosts.
#[derive(Debug, thiserror::Error)]
#[error(
    "`ip {command}` failed: {found}; two hosts are made of network namespaces, which needs root and iproute2"
)]
pub struct HostsError {
    command: String,
    found: String,
}

/// Both, removed with this value.
pub(super) struct Hosts {
    names: [String; 2],
    /// So many of them are there, and ours.
    made: usize,
}

impl Hosts {
    /// Makes them.
    pub(super) fn new() -> Result<Self, HostsError> {
        let process = id();
        // What was made until then goes where one step fails.
        let mut hosts = Self {
            names: ["near", "far"].map(|which| format!("gmem-{which}-{process}")),
            made: 0,
        };
        for name in hosts.names.clone() {
            ip(&["netns", "add", &name])?;
            hosts.made += 1;
        }
        let [near, far] = &hosts.names;
        let links = ["n", "f"].map(|which| format!("gmem{process}{which}"));
        let [left, right] = &links;
        ip(&[
            "link", "add", left, "netns", near, "type", "veth", "peer", "name", right, "netns", far,
        ])?;
        for ((name, link), address) in hosts.names.iter().zip(&links).zip(ADDRESSES) {
            let network = format!("{address}/30");
            ip(&["-n", name, "address", "add", &network, "dev", link])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "link", "set", link, "up"])?;
        }
        Ok(hosts)
    }

    /// Becomes `binary`, where the guest is.
    pub(super) fn near(&self, binary: &Path) -> Command {
        on(&self.names[0], binary)
    }

    /// Becomes `binary`, where the holder is.
    pub(super) fn far(&self, binary: &Path) -> Command {
        on(&self.names[1], binary)
    }

    /// Where the holder is reached.
    pub(super) fn address(&self) -> &'static str {
        ADDRESSES[1]
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names[..self.made] {
            // The interfaces go with them.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), HostsError> {
    let failed = |found: String| HostsError {
        command: arguments.join(" "),
        found,
    };
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(failed(said.trim().replace('\n', "; ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_says_what_is_needed() {
        let error = ip(&["netns", "delete", "gmem-nobody"]).unwrap_err();
        let text = error.to_string();
        for needle in ["`ip netns delete gmem-nobody`", "root", "iproute2"] {
            assert!(text.contains(needle), "{text}");
        }
    }
}
