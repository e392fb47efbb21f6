//! The house as the design has it: who knows whom, how long a file may be, and where `unsafe` may stand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Our packages and those of ours that each may use. Nothing points back.
const MAY_USE: [(&str, &[&str]); 7] = [
    ("gmem", &["gmem-devices", "gmem-core", "gmem-wire"]),
    ("gmem-devices", &["gmem-core", "gmem-wire", "gmem-work"]),
    ("gmem-core", &["pager-wire"]),
    ("pager-wire", &[]),
    ("guest-kernel", &["gmem-wire", "gmem-work", "pager-wire"]),
    ("gmem-wire", &[]),
    ("gmem-work", &[]),
];

/// Where `unsafe` is needed, and for what. A directory stands for all files in it.
const UNSAFE: &[&str] = &[
    // Mappings, and the one system call to allocate a file's room.
    "gmem-core/src/hnode/file.rs",
    "gmem-core/src/hnode/ram/mod.rs",
    "gmem-core/src/hnode/ram/owned.rs",
    "gmem-core/src/hnode/ram/scratch.rs",
    "gmem-core/src/shared.rs",
    "gmem-core/src/reserve.rs",
    // Guest memory by raw pointers in system calls; descriptors of the kernel's.
    "devices/src/virtio/blk",
    "devices/src/virtio/console",
    "devices/src/virtio/net",
    "devices/src/virtio/rate.rs",
    "devices/src/virtio/vsock",
    // Runs without an operating system.
    "guest-kernel/src/boot",
    "guest-kernel/src/clock.rs",
    "guest-kernel/src/kernel",
    "guest-kernel/src/main.rs",
    "guest-kernel/src/memory.rs",
    // Questions that only a system call or an instruction answers.
    "vmm/src/check/cpu.rs",
    "vmm/src/check/host.rs",
    "vmm/src/check/kernel.rs",
    // Leaving beneath a thread that is stuck; waiting for descriptors; the terminal.
    "vmm/src/cli/run.rs",
    "vmm/src/console_input.rs",
    "vmm/src/poll.rs",
    "vmm/src/report.rs",
    "vmm/src/terminal.rs",
    // Guest memory and registers, by raw pointers.
    "vmm/src/fallback/area.rs",
    "vmm/src/fallback/fetch.rs",
    "vmm/src/fallback/fpu.rs",
    "vmm/src/fallback/integer.rs",
    "vmm/src/fallback/physical.rs",
    "vmm/src/fallback/state.rs",
    "vmm/src/memory/discard.rs",
    "vmm/src/memory/mmu.rs",
    "vmm/src/memory/pagemap.rs",
    "vmm/src/memory/ram.rs",
    "vmm/src/memory/userfault",
    // Sockets and floors: polling, peers, frames moved without an engine.
    "vmm/src/api",
    "vmm/src/socket.rs",
    "vmm/src/bench",
    "vmm/src/cli/bench.rs",
    // Pages of code that nobody needs any more.
    "vmm/src/footprint.rs",
    // KVM, threads, signals.
    "vmm/src/kvm",
    "vmm/src/signals.rs",
];

fn root() -> PathBuf {
    let vmm = Path::new(env!("CARGO_MANIFEST_DIR"));
    vmm.parent().unwrap().into()
}

/// Our packages, and which of ours each depends on for anything but tests.
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root())
        .output()
        .expect("this test asks cargo who depends on whom");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = |package: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let dependencies = package["dependencies"].as_array().unwrap();
        let ours = dependencies
            .iter()
            .filter(|it| it["path"].is_string() && it["kind"] != "dev")
            .map(|it| text(&it["name"]));
        (text(&package["name"]), ours.collect())
    };
    packages.iter().map(package).collect()
}

/// All Rust files below `directory`, but for build outputs and hidden directories.
fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                rust_files(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// All Rust files of the repository, by their paths in it, with their text.
fn sources() -> Vec<(String, String)> {
    let (root, mut files) = (root(), Vec::new());
    rust_files(&root, &mut files);
    assert!(files.len() > 100, "{files:?}");
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap();
            let text = fs::read_to_string(path).unwrap();
            (name.to_str().unwrap().to_owned(), text)
        })
        .collect()
}

#[test]
fn arrows_between_packages_point_one_way() {
    let packages = packages();
    let known: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    for (name, uses) in &packages {
        let may = known
            .get(name.as_str())
            .unwrap_or_else(|| panic!("say in this test what {name} may use"));
        for used in uses {
            assert!(may.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
    assert_eq!(packages.len(), known.len());
}

#[test]
fn the_memory_system_knows_neither_kvm_nor_the_command_line() {
    let manifest = fs::read_to_string(root().join("gmem-core/Cargo.toml")).unwrap();
    for name in [
        "kvm",
        "virtio",
        "clap",
        "vm-memory",
        "gmem-devices",
        "gmem-wire",
    ] {
        assert!(!manifest.contains(name), "gmem-core uses {name}");
    }
}

#[test]
fn no_file_has_more_than_400_lines() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > 400)
        .collect();
    assert_eq!(long, [], "files of one idea are shorter");
}

#[test]
fn unsafe_stands_where_it_is_expected_and_nowhere_else() {
    let mut used = BTreeSet::new();
    for (name, text) in sources() {
        // Of tests nothing is expected, and what they share with them is theirs.
        let is_test =
            name.contains("tests/") || name.contains("testing/") || name.ends_with("tests.rs");
        let code = text
            .lines()
            .map(|line| line.split("//").next().unwrap_or_default());
        let mut words =
            code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
        if is_test || !words.any(|word| word == "unsafe") {
            continue;
        }
        let stem = name.trim_end_matches(".rs");
        let place = UNSAFE.iter().find(|place| {
            let directory = place.trim_end_matches(".rs");
            **place == name || stem == directory || name.starts_with(&format!("{place}/"))
        });
        used.insert(place.unwrap_or_else(|| panic!("unsafe in {name}: say in this test what for")));
    }
    let listed: BTreeSet<_> = UNSAFE.iter().collect();
    assert_eq!(
        used, listed,
        "places that need it no longer are taken off the list"
    );
}
