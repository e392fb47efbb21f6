//! Builds the bundled guest's image, which `src/boot/bundled.rs` embeds.
//!
//! The image is the binary of `guest-kernel`: freestanding, linked at a fixed address. It has flags, a profile
//! and a target directory of its own, whatever those of the build around it are, so cargo is called once more.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Code that runs without an operating system: fixed addresses, no start files, no unwinding.
const RUSTFLAGS: [&str; 16] = [
    "-Crelocation-model=static",
    "-Ctarget-feature=+crt-static",
    "-Cno-redzone=yes",
    "-Cforce-unwind-tables=no",
    "-Cpanic=abort",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-nostdlib",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,norelro",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
    "-Clink-arg=-T",
];

/// What the image depends on, from the workspace's root.
const SOURCES: [&str; 11] = [
    "guest-kernel/src",
    "guest-kernel/Cargo.toml",
    "guest-kernel/link.ld",
    "devices/wire/src",
    "devices/wire/Cargo.toml",
    "devices/work/src",
    "devices/work/Cargo.toml",
    "gmem-core/pager-wire/src",
    "gmem-core/pager-wire/Cargo.toml",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = root.parent().unwrap_or(Path::new("/"));
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }
    let target = variable("TARGET").to_string_lossy().into_owned();
    if !target.starts_with("x86_64-") || !target.contains("-linux-") {
        fail(format_args!(
            "gmem runs on x86_64 Linux only, not on {target}"
        ));
    }
    let directory = PathBuf::from(variable("OUT_DIR")).join("guest");
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        if is_of_the_outer_build(&name) {
            cargo.env_remove(name);
        }
    }
    let script = root.join("guest-kernel/link.ld");
    let link_script = format!("-Clink-arg={}", script.display());
    let flags = [&RUSTFLAGS[..], &[&link_script]].concat().join(SEPARATOR);
    cargo
        .current_dir(root)
        .args(["build", "--release", "--frozen", "--quiet"])
        .args(["--package", "guest-kernel", "--bin", "guest-kernel"])
        .args(["--features", "bare-metal", "--target", &target])
        .arg("--target-dir")
        .arg(&directory)
        .env("CARGO_BUILD_BUILD_DIR", &directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env("CARGO_INCREMENTAL", "0");
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(format_args!(
            "building the bundled guest failed ({status}); its messages are below"
        )),
        Err(error) => fail(format_args!(
            "cannot start cargo to build the bundled guest: {error}"
        )),
    }
    let image = directory.join(&target).join("release/guest-kernel");
    println!("cargo::rustc-env=GMEM_GUEST_IMAGE={}", image.display());
}

/// Whether a variable would carry wrappers (clippy's, an editor's) or a profile of the build around this one
/// over to the guest's. Flags, target and directories are set anew.
fn is_of_the_outer_build(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"].contains(&&*name)
        || name.starts_with("CARGO_PROFILE_")
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}

/// Ends the build. A failed exit makes cargo show what the inner cargo wrote.
fn fail(why: std::fmt::Arguments<'_>) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1)
}
