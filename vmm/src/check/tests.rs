//! Hosts that lack something, made of other paths, and this host.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::*;
use crate::memory::userfault::{Features, OpenError};

mod swapping;

/// A folder of this test alone, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gmem-check-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A host of which nothing can be read.
fn empty() -> Host {
    let nowhere = PathBuf::from("/nonexistent");
    Host {
        release: String::new(),
        kvm: nowhere.join("kvm"),
        userfaultfd: nowhere.join("userfaultfd"),
        unprivileged_userfaultfd: nowhere.clone(),
        userfaultfd_features: || Err(OpenError::Absent),
        status: nowhere.clone(),
        cpuinfo: nowhere.clone(),
        meminfo: nowhere.clone(),
        cgroup: nowhere.clone(),
        mountinfo: nowhere.clone(),
        modules: nowhere.clone(),
        huge_pages: nowhere,
    }
}

/// What was found and the remedy of something required that is missing.
fn missing(it: &Requirement) -> (&str, &str) {
    match &it.status {
        Status::Missing { found, remedy } => (found, remedy),
        other => panic!("{} should be missing, not {other:?}", it.name),
    }
}

/// The same of something optional.
fn optional(it: &Requirement) -> (&str, &str) {
    match &it.status {
        Status::Optional { found, remedy } => (found, remedy),
        other => panic!("{} should be optional, not {other:?}", it.name),
    }
}

fn found(it: &Requirement) -> &str {
    match &it.status {
        Status::Found(found) => found,
        other => panic!("{} should be found, not {other:?}", it.name),
    }
}

fn named<'a>(all: &'a [Requirement], name: &str) -> &'a Requirement {
    let it = all.iter().find(|it| it.name == name);
    it.unwrap_or_else(|| panic!("no requirement is named {name}"))
}

#[test]
fn kernels_before_6_8_and_strange_ones_are_refused() {
    for (release, is_met) in [
        ("6.8.0", true),
        ("6.8-rc1", true),
        ("6.10.3-generic", true),
        ("7.0.0", true),
        ("6.7.12", false),
        ("5.15.0-91-generic", false),
        ("", false),
        ("Plan 9", false),
    ] {
        let host = Host {
            release: release.to_owned(),
            ..empty()
        };
        assert_eq!(require_kernel(&host).is_ok(), is_met, "{release}");
    }
    let old = Host {
        release: "6.7.12".to_owned(),
        ..empty()
    };
    let message = require_kernel(&old).unwrap_err().to_string();
    assert!(message.contains("Linux 6.7.12") && message.contains("boot Linux 6.8"));
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn a_missing_kvm_names_the_module_of_this_cpu() {
    let folder = Folder::new();
    for (flags, remedy) in [
        ("flags\t\t: fpu vmx sse", "modprobe kvm_intel"),
        ("flags\t\t: fpu svm sse", "modprobe kvm_amd"),
        ("flags\t\t: fpu sse", "firmware"),
    ] {
        let host = Host {
            cpuinfo: folder.file("cpuinfo", flags),
            ..empty()
        };
        let error = require_kvm(&host).unwrap_err();
        assert!(error.found.starts_with("/nonexistent/kvm: "), "{error}");
        assert!(error.remedy.contains(remedy), "{error}");
    }
}

#[test]
fn a_kvm_that_is_not_permitted_names_the_permission() {
    let denied = io::Error::from_raw_os_error(libc::EACCES);
    let (found, remedy) = kvm::cannot_open(&Host::this(), &denied);
    assert!(found.contains("Permission denied"), "{found}");
    assert!(remedy.contains("usermod -aG kvm") && !remedy.contains("modprobe"));
}

#[test]
fn a_device_that_is_not_kvm_is_refused() {
    let host = Host {
        kvm: "/dev/null".into(),
        ..empty()
    };
    let error = require_kvm(&host).unwrap_err();
    assert_eq!(error.name, "kvm-version");
    assert!(missing(&kvm::version(11)).0.contains("version 11, not 12"));
}

#[test]
fn each_missing_capability_of_kvm_is_named() {
    let none = kvm::capabilities(|_| 0);
    let names: Vec<_> = none.iter().filter(|it| !it.is_met()).collect();
    let names: Vec<_> = names.iter().map(|it| it.name).collect();
    let required = [
        "kvm-user-memory",
        "kvm-irqchip",
        "kvm-immediate-exit",
        "kvm-sync-mmu",
    ];
    assert_eq!(names, required);
    optional(named(&none, "kvm-disable-exits"));
    optional(named(&none, "kvm-emulation-exit"));
    let all = kvm::capabilities(|_| 7);
    assert!(all.iter().all(|it| matches!(it.status, Status::Found(_))));
    assert_eq!(found(named(&all, "kvm-max-vcpus")), "7");
}

#[test]
fn the_kind_of_virtualization_is_named() {
    let folder = Folder::new();
    fs::create_dir_all(folder.0.join("module/kvm_intel")).unwrap();
    let mut host = Host {
        modules: folder.0.join("module"),
        cpuinfo: folder.file("cpuinfo", "flags : fpu vmx"),
        ..empty()
    };
    assert_eq!(found(&cpu::virtualization(&host)), "VMX (Intel)");
    // Built in, on a CPU without it.
    host.cpuinfo = folder.file("cpuinfo", "flags : fpu");
    let it = cpu::virtualization(&host);
    assert!(optional(&it).0.contains("neither VMX nor SVM"));
    fs::create_dir(folder.0.join("module/kvm_pvm")).unwrap();
    let it = cpu::virtualization(&host);
    assert!(optional(&it).0.contains("kvm_pvm") && it.purpose.contains("emulates"));
    fs::create_dir(folder.0.join("module/kvm_amd")).unwrap();
    host.cpuinfo = folder.file("cpuinfo", "flags : fpu svm");
    assert_eq!(found(&cpu::virtualization(&host)), "SVM (AMD)");
}

#[test]
fn a_kernel_without_userfaultfd_is_told_from_one_that_does_not_permit_it() {
    let absent = require_userfaultfd(&empty()).unwrap_err();
    assert!(absent.remedy.contains("CONFIG_USERFAULTFD=y"), "{absent}");
    let host = Host {
        userfaultfd_features: || {
            Err(OpenError::NotPermitted {
                device: io::ErrorKind::NotFound.into(),
                syscall: io::ErrorKind::PermissionDenied.into(),
            })
        },
        ..empty()
    };
    let denied = require_userfaultfd(&host).unwrap_err();
    for part in ["/nonexistent/userfaultfd does not exist", "CAP_SYS_PTRACE"] {
        assert!(denied.found.contains(part), "{denied}");
    }
    for part in ["setfacl", "sysctl vm.unprivileged_userfaultfd=1"] {
        assert!(denied.remedy.contains(part), "{denied}");
    }
}

#[test]
fn the_doors_to_userfaultfd_that_are_open_are_named() {
    let folder = Folder::new();
    let mut host = Host {
        userfaultfd_features: || Ok(Features::REQUIRED),
        ..empty()
    };
    let door = |host: &Host| found(&userfault::all(host)[0]).to_owned();
    assert_eq!(door(&host), "opened");
    host.unprivileged_userfaultfd = folder.file("sysctl", "1\n");
    assert!(door(&host).ends_with(": by sysctl vm.unprivileged_userfaultfd=1"));
    host.unprivileged_userfaultfd = folder.file("sysctl", "0\n");
    host.status = folder.file("status", "CapInh:\t0\nCapEff:\t0000000000080000\n");
    assert_eq!(door(&host), "opened: by CAP_SYS_PTRACE");
    host.status = folder.file("status", "CapEff:\t000001fffff7ffff\n");
    host.userfaultfd = folder.file("userfaultfd", "");
    let device = host.userfaultfd.display();
    assert_eq!(door(&host), format!("opened: by {device}"));
}

#[test]
fn each_missing_feature_of_userfaultfd_is_named() {
    let host = Host {
        userfaultfd_features: || Ok(Features::WRITE_PROTECT),
        ..empty()
    };
    let all = userfault::all(&host);
    for name in [
        "userfaultfd-move",
        "userfaultfd-poison",
        "userfaultfd-thread",
    ] {
        assert!(missing(named(&all, name)).1.contains("6.8"));
    }
    assert_eq!(found(named(&all, "userfaultfd-wp")), "available");
    optional(named(&all, "userfaultfd-async"));
    let error = require_userfaultfd(&host).unwrap_err();
    assert_eq!(error.name, "userfaultfd-move");
}

#[test]
fn missing_calls_of_the_kernel_are_named() {
    let enotty = || Err(io::Error::from_raw_os_error(libc::ENOTTY));
    let enosys = || Err(io::Error::from_raw_os_error(libc::ENOSYS));
    assert!(missing(&kernel::scanned(enotty())).1.contains("6.7"));
    let it = kernel::memfd_made(enosys());
    assert!(missing(&it).1.contains("CONFIG_MEMFD_CREATE"));
}

#[test]
fn memory_and_huge_pages_are_judged() {
    let folder = Folder::new();
    let mut host = empty();
    for it in &memory::all(&host)[..2] {
        optional(it);
    }
    host.meminfo = folder.file("meminfo", "MemTotal: 9 kB\nMemAvailable:  524288 kB\n");
    assert_eq!(optional(&memory::all(&host)[0]).0, "512 MiB available");
    host.meminfo = folder.file("meminfo", "MemAvailable: 2097152 kB\n");
    assert_eq!(found(&memory::all(&host)[0]), "2048 MiB available");

    host.huge_pages = folder.0.clone();
    folder.file("enabled", "always madvise [never]\n");
    folder.file("khugepaged/pages_to_scan", "4096\n");
    let all = memory::all(&host);
    assert!(optional(&all[1]).1.starts_with("echo madvise > "));
    assert_eq!(found(&all[2]), "off");
    folder.file("enabled", "always [madvise] never\n");
    let all = memory::all(&host);
    assert_eq!(found(&all[1]), "madvise");
    assert_eq!(found(&all[2]), "madvise, 4096 pages a scan");
}

#[test]
fn lists_of_cpus_are_short() {
    assert_eq!(cpu::ranges(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
}

#[test]
fn text_is_aligned_and_remedies_stand_beneath() {
    let all = [
        Requirement::found("a", "is for this", "here"),
        Requirement::missing("bcd", "is for that", "nothing", "get it"),
    ];
    let mut text = Vec::new();
    render::text(&mut text, &all).unwrap();
    let expected = "\
ok        a    here     - is for this
MISSING   bcd  nothing  - is for that
               remedy: get it
This host cannot run microVMs: one thing is missing.
";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}

#[test]
fn json_says_the_same() {
    let all = [
        Requirement::found("a", "this", "here"),
        Requirement::missing("b", "that", "nothing", "get it"),
    ];
    let mut json = Vec::new();
    render::json(&mut json, &all).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let expected = serde_json::json!({"schema": 1, "ok": false, "requirements": [
        {"name": "a", "purpose": "this", "status": "found", "found": "here"},
        {"name": "b", "purpose": "that", "status": "missing", "found": "nothing", "remedy": "get it"},
    ]});
    assert_eq!(value, expected);
}

/// Every other test of this crate on real parts needs what is checked here, so this host must have it.
#[test]
fn this_host_can_run_microvms() {
    let mut text = Vec::new();
    let ok = run(&mut text, false).unwrap();
    let text = String::from_utf8(text).unwrap();
    println!("{text}");
    assert!(
        ok,
        "the tests of gmem need what microVMs need, and this host lacks it:\n{text}"
    );
}

#[test]
fn the_checks_at_start_are_quick() {
    let host = Host::this();
    let best = (0..20).map(|_| {
        let start = Instant::now();
        require_kernel(&host).unwrap();
        require_kvm(&host).unwrap();
        require_userfaultfd(&host).unwrap();
        start.elapsed()
    });
    let best = best.min().unwrap();
    println!("kernel, kvm and userfaultfd: {best:?}");
    assert!(best.as_millis() < 2, "they took {best:?}");
}
